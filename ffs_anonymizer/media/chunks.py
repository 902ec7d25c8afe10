"""One video, many processes: detection in chunks of its pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import functools
from pathlib import Path

from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.errors import AnonymizerError, MediaError
from ffs_anonymizer.frames.message import rotation_of
from ffs_anonymizer.frames.video import Shot
from ffs_anonymizer.frames.video_seeker import VideoSeeker
from ffs_anonymizer.jobs import chunks as jobs
from ffs_anonymizer.jobs.chunks import (
    Chunk,
    chunk_frames,
    ChunkResult,
    detectors_of,
    look_at,
    recipe_that_finds,
    sha256_of,
)
from ffs_anonymizer.media.files import MediaFile, MediaJob
from ffs_anonymizer.regions.detections import Detections
from ffs_anonymizer.settings.runtime import Settings


@dataclass(frozen=True, kw_only=True)
class VideoChunk(Chunk):
    """
    Say which part of a video is to be looked at.

    :param rotation: degrees clockwise that make it upright, beyond what the file says.
    :param first: number of its first picture, in the order in which they are shown.
    """

    settings: Settings
    source: Path
    rotation: int
    first: int


def plan_chunks(job: MediaJob, file: MediaFile) -> list[VideoChunk]:
    """
    Cut a video; the same job is always cut alike.

    :returns: nothing where nothing is to be detected, or its pictures have no times to go by.
    :raises MediaError: it cannot be read.
    """
    if job.detections is not None or job.boxes is not None:
        return []
    frames = len(_opened(file.source).stamps_ns)
    size = chunk_frames(frames)
    spans = [(first, min(size, frames - first)) for first in range(0, frames, size)]
    detectors = detectors_of(job.settings)
    job_sha256 = sha256_of(job, [file.source], spans, detectors) if spans else ''
    rotation = rotation_of(job.settings.rotation, *file.zone_names)
    return [
        VideoChunk(
            job_sha256=job_sha256,
            detectors=detectors,
            number=number,
            frames=count,
            settings=job.settings,
            source=file.source,
            rotation=rotation,
            first=first,
        )
        for number, (first, count) in enumerate(spans)
    ]


def run_chunk(chunk: VideoChunk, threads: int = 0, recipe: Recipe | None = None) -> ChunkResult:
    """
    Detect in all pictures of a chunk; networks stay open for the next one of the same settings.

    What cannot be decoded from a keyframe on is left to the one pass, which may.

    :param threads: of the processor; 0: as the settings say.
    :param recipe: that is open already, of the chunk's settings.
    :raises AnonymizerError: the video cannot be read.
    """
    recipe = recipe or recipe_that_finds(chunk.settings, threads)
    return look_at(chunk, _looks(chunk, recipe), recipe, stops=False)


def fingerprint(shot: Shot, rotation: int) -> bytes:
    """
    Return 32 bytes that two pictures share only if the recipe sees the same pixels in both.

    :param rotation: degrees clockwise that make it upright.
    :raises MediaError: it was not decoded whole.
    """
    samples = shot.samples
    form = rotation, samples.encoding, samples.width, samples.height, samples.step
    return jobs.fingerprint(form, samples.data)


def _looks(chunk: VideoChunk, recipe: Recipe) -> Iterator[tuple[bytes, Callable[[], Detections]]]:
    """Yield each picture's fingerprint, and how to look for what is in it."""
    for shot in _opened(chunk.source).shots(chunk.first, chunk.frames):
        try:
            mark = fingerprint(shot, chunk.rotation)
        except MediaError:
            continue
        yield mark, functools.partial(_look, recipe, shot, chunk.rotation)


def _look(recipe: Recipe, shot: Shot, rotation: int) -> Detections:
    try:
        return recipe.detect(shot.decode(rotation))
    except Exception as error:
        raise AnonymizerError.of(error) from error


def _opened(path: Path) -> VideoSeeker:
    try:
        state = path.stat()
    except OSError as error:
        raise MediaError(f'{path}: {error.strerror or error}') from error
    return _opened_once(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(1)
def _opened_once(path: Path, _size: int, _changed_ns: int) -> VideoSeeker:
    return VideoSeeker(path)
