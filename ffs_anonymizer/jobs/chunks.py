"""Detection in chunks: the expensive part of a recording, done by many processes, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
from dataclasses import dataclass, replace
import functools
import hashlib
import io
import json
from pathlib import Path
import socket
from typing import Any, Protocol, TYPE_CHECKING, TypeVar

from ffs_anonymizer import __version__
from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.cores import cores
from ffs_anonymizer.errors import AnonymizerError, ModelError
from ffs_anonymizer.jobs.fleet import Crew, map_in_fleet
from ffs_anonymizer.jobs.job import FileJob, Tell
from ffs_anonymizer.jobs.journal import Journal
from ffs_anonymizer.jobs.report import progress_bar, Report
from ffs_anonymizer.jobs.workers import map_in_processes
from ffs_anonymizer.models.model_file import read_model
from ffs_anonymizer.models.roster import DETECTORS, roster
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.pipeline import concurrency
from ffs_anonymizer.regions.detections import Detections
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ffs_anonymizer.frames.frame import Buffer

# A recording has this many chunks, or as many as make their sizes lie between these, in frames.
_CHUNKS = 32
LEAST_FRAMES, _MOST_FRAMES = 16, 512
_FINGERPRINT_BYTES = 32
# Of each file what tells recordings apart: with it begins, and its summary ends, an mcap.
_EDGE_BYTES = 1 << 16


class Detected(Protocol):
    """Know what was detected before, in the very same pictures, with the very same settings."""

    def find(self, fingerprint: bytes) -> Detections | None:
        """Return what was detected in the picture of this fingerprint; None: not known."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """
    Say which part of a recording is to be looked at; plain data, to be sent to other machines.

    :param job_sha256: of all that decides about what is detected; another job's results are
        refused.
    :param detectors: hashes of the files that detect, for machines that may have others.
    :param number: of the chunk, from 0.
    :param frames: that lie in it.
    """

    job_sha256: str
    detectors: tuple[str, ...]
    number: int
    frames: int

    @property
    def name(self) -> str:
        """Return what its result is kept under."""
        return f'chunk {self.number}'


_Chunk = TypeVar('_Chunk', bound=Chunk)


@dataclass(frozen=True)
class ChunkResult:
    """
    Hold what was detected in a chunk; plain data.

    :param job_sha256: of the chunk's job.
    :param number: of the chunk.
    :param fingerprints: (F, 32) uint8, of each picture in which something was looked for.
    :param counts: (F,) int64, how many of the detections are each picture's.
    :param detections: of all pictures, in their order.
    """

    job_sha256: str
    number: int
    fingerprints: NDArray[np.uint8]
    counts: NDArray[np.int64]
    detections: Detections

    def packed(self) -> bytes:
        """Return it as bytes."""
        file = io.BytesIO()
        np.savez(
            file,
            fingerprints=self.fingerprints,
            counts=self.counts,
            **{name: getattr(self.detections, name) for name in Detections.COLUMNS},
        )
        return file.getvalue()

    @classmethod
    def unpacked(cls, chunk: Chunk, data: bytes) -> ChunkResult:
        """Return the result of a chunk that `packed` made bytes of."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            detections = Detections(**{name: arrays[name] for name in Detections.COLUMNS})
            return cls(
                chunk.job_sha256,
                chunk.number,
                arrays['fingerprints'],
                arrays['counts'],
                detections,
            )


class DetectedBefore:
    """
    Know what chunks detected, by the pictures themselves.

    :param results: of any chunks of one job; what is missing is looked for anew.
    """

    def __init__(self, results: Sequence[ChunkResult]) -> None:
        self._results = results
        self._places: dict[bytes, tuple[int, int, int]] = {}
        for which, result in enumerate(results):
            ends = np.cumsum(result.counts).tolist()
            rows = result.fingerprints.tobytes()
            for i, (end, count) in enumerate(zip(ends, result.counts.tolist(), strict=True)):
                key = rows[i * _FINGERPRINT_BYTES : (i + 1) * _FINGERPRINT_BYTES]
                self._places[key] = (which, end - count, end)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._places)

    def find(self, fingerprint: bytes) -> Detections | None:
        """Return what was detected in the picture of this fingerprint; None: not known."""
        place = self._places.get(fingerprint)
        if place is None:
            return None
        which, start, end = place
        return self._results[which].detections.take(np.arange(start, end))


def fingerprint(form: tuple[object, ...], data: Buffer) -> bytes:
    """
    Return 32 bytes that two pictures share only if the recipe sees the same pixels in both.

    :param form: all beside the data that decides about the pixels.
    """
    digest = hashlib.sha256(repr(form).encode('utf-8', 'backslashreplace'))
    digest.update(data)
    return digest.digest()


def chunk_frames(frames: int) -> int:
    """Return how many frames a chunk of a recording with so many is to have."""
    return min(max(-(-frames // _CHUNKS), LEAST_FRAMES), _MOST_FRAMES)


def sha256_of(
    job: FileJob,
    files: Iterable[Path],
    spans: Sequence[tuple[int, ...]],
    detectors: tuple[str, ...],
) -> str:
    """
    Return a hash of all that decides about what is detected and about the output.

    :param files: of the recording; what lies within, fingerprints tell.
    :param spans: of its chunks.
    :param detectors: hashes of the files that detect.
    """
    told = {
        'version': __version__,
        'settings': job.settings.sha256,
        'models': detectors,
        # A frame that cannot be anonymized may be met with another answer in the next run.
        'job': repr(replace(job, source=Path(), target=Path(), on_error='', skips_existing=False)),
        'files': [(file.name, file.stat().st_size, _edges(file)) for file in files],
        'spans': spans,
    }
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def detectors_of(settings: Settings) -> tuple[str, ...]:
    """Return the hashes of the files that detect."""
    roles = roster(settings)
    return tuple(read_model(role.path).sha256 for role in roles if role.name in DETECTORS)


def refuse_others(detectors: tuple[str, ...], recipe: Recipe) -> None:
    """
    Refuse to work for a job with other detectors than those that it began with.

    :param detectors: hashes of its files.
    :param recipe: whose detectors are open, whatever has become of their files.
    :raises ModelError: they are others.
    """
    opened, _, _ = recipe.networks.of(recipe.settings)
    if tuple(network.model.sha256 for network in opened) != detectors:
        raise ModelError(
            f'got other detectors on {socket.gethostname()} than those that the job began with, '
            'expected the same files at the same paths, and nobody to exchange them meanwhile'
        )


def _edges(path: Path) -> str:
    """Return a hash of how a file begins and ends."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        digest.update(file.read(_EDGE_BYTES))
        file.seek(max(path.stat().st_size - _EDGE_BYTES, 0))
        digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()


@functools.lru_cache(1)
def recipe_that_finds(settings: Settings, threads: int) -> Recipe:
    """
    Return a recipe that stays open as long as the process works for one job.

    :param threads: of the processor; 0: as the settings say.
    """
    # What only paints is not opened.
    settings = settings.updated({'face.method': 'solid', 'plate.method': 'solid'})
    if threads:
        settings = settings.updated({'threads': threads})
    return Recipe(Networks(settings, concurrency=concurrency(settings)), settings)


def look_at(
    chunk: Chunk,
    looks: Iterable[tuple[bytes, Callable[[], Detections]]],
    recipe: Recipe,
    *,
    stops: bool,
) -> ChunkResult:
    """
    Return what is detected in the pictures of a chunk.

    :param looks: each picture's fingerprint, and how to look for what is in it.
    :param stops: whether one that cannot be looked at ends it; else it is left to the one pass,
        which meets it again.
    :raises AnonymizerError: of such a picture; or the detectors are others.
    """
    refuse_others(chunk.detectors, recipe)
    ahead = recipe.networks.concurrency + 1
    fingerprints: list[bytes] = []
    found: list[Detections] = []
    waiting: list[tuple[bytes, Future[Detections]]] = []

    def take(mark: bytes, future: Future[Detections]) -> None:
        try:
            detections = future.result()
        except AnonymizerError:
            if stops:
                raise
            return
        fingerprints.append(mark)
        found.append(detections)

    with ThreadPoolExecutor(recipe.networks.concurrency, thread_name_prefix='look') as pool:
        try:
            for mark, look in looks:
                waiting.append((mark, pool.submit(look)))
                if len(waiting) > ahead:
                    take(*waiting.pop(0))
            for each in waiting:
                take(*each)
        finally:
            pool.shutdown(cancel_futures=True)
    rows = np.frombuffer(b''.join(fingerprints), np.uint8).reshape(-1, _FINGERPRINT_BYTES)
    counts = np.array([len(one) for one in found], np.int64)
    columns = {
        name: np.concatenate(
            [getattr(Detections.empty(), name), *(getattr(d, name) for d in found)]
        )
        for name in Detections.COLUMNS
    }
    return ChunkResult(chunk.job_sha256, chunk.number, rows, counts, Detections(**columns))


def kept_results(chunks: Sequence[Chunk], journal: Journal) -> dict[int, ChunkResult]:
    """Return the results that a journal holds whole, by number of the chunk."""
    results = {}
    for chunk in chunks:
        data = journal.kept(chunk.name)
        if data is not None:
            results[chunk.number] = ChunkResult.unpacked(chunk, data)
    return results


def detect_in_processes(
    look: Callable[..., ChunkResult],
    chunks: Sequence[_Chunk],
    journal: Journal,
    settings: Settings,
    *,
    workers: int,
    crew: Crew | None,
    tell: Tell,
    shows_progress: bool,
) -> DetectedBefore:
    """
    Return what is detected in all chunks, by an earlier run that was killed or now.

    :param look: makes the result of a chunk, with so many `threads`; can be pickled.
    :param workers: processes that look; they share the threads of the settings.
    :param crew: who looks in their place, on the machines of a cluster, to whom the recording and
        the models are at the same paths; None: nobody.
    :param tell: is told what is there already.
    :raises AnonymizerError: of the look; chunks that are done are kept for the next run.
    """
    results = kept_results(chunks, journal)
    damaged = sum(chunk.name in journal.names for chunk in chunks) - len(results)
    if results or damaged:
        words = f', {damaged} damaged ones are done again' if damaged else ''
        tell(f'resuming: {len(results)} of {len(chunks)} chunks are there{words}')
    missing = [chunk for chunk in chunks if chunk.number not in results]
    if missing:
        workers = min(workers, len(missing))
        threads = max(1, (settings.threads or cores()) // workers) if crew is None else 0
        work = functools.partial(look, threads=threads)
        looked = (
            map_in_processes(work, missing, workers=workers)
            if crew is None
            else map_in_fleet(work, missing, crew=crew)
        )
        bar = progress_bar(
            total=sum(c.frames for c in chunks), shown=shows_progress, unit='frames'
        )
        with bar, contextlib.closing(looked):
            bar.update(sum(chunk.frames for chunk in chunks if chunk.number in results))
            for which, result in looked:
                journal.keep(missing[which].name, result.packed())
                results[result.number] = result
                bar.update(missing[which].frames)
    return DetectedBefore([results[chunk.number] for chunk in chunks])


def finished_report(journal: Journal, tell: Tell) -> Report:
    """
    Give the outputs of a finished job the names that a killed run did not come to give.

    :returns: what that run had to tell.
    """
    tell('resuming: all is there, and gets its names')
    journal.give_names()
    found: Mapping[str, Any] | None = journal.report
    if found is None:
        return Report(written=1, undone=['the report of the killed run is damaged'])
    return Report.of_dict(found)
