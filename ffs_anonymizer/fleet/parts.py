"""What workers are given of a recording that they share: chunks, and then what joins them."""

from __future__ import annotations

from dataclasses import dataclass

from ffs_anonymizer.fleet.plan import FleetTask
from ffs_anonymizer.jobs.chunks import Chunk, ChunkResult


@dataclass(frozen=True)
class Cut:
    """
    Say that a recording is large enough to be shared; plain data.

    :param chunks: of the recording.
    """

    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Part:
    """
    Say in which chunk of a recording is to be looked; plain data.

    :param task: of the whole recording.
    """

    task: FleetTask
    chunk: Chunk


@dataclass(frozen=True)
class Join:
    """
    Say which recording is to be made of what was found in all its chunks; plain data.

    :param results: of its chunks.
    :param detectors: hashes of the files that detected, which its record is to name.
    """

    task: FleetTask
    results: tuple[ChunkResult, ...]
    detectors: tuple[str, ...]
