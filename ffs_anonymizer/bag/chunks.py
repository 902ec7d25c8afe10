"""One bag, many processes: detection in chunks of time, and one pass that makes the bag of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
import functools
import hashlib
import heapq
import io
import json
import os
from pathlib import Path
import time
from typing import Any

from ffs_anonymizer import __version__
from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.bag import conversion
from ffs_anonymizer.bag.measured import may_show_persons, Sensors
from ffs_anonymizer.bag.pictures import decoding, fingerprint, Picture
from ffs_anonymizer.bag.plan import BagJob, BagPlan
from ffs_anonymizer.bag.preflight import check_first_images
from ffs_anonymizer.bag.selection import Action
from ffs_anonymizer.bag.video import Videos
from ffs_anonymizer.cores import cores
from ffs_anonymizer.errors import AnonymizerError, BagError, ImageError
from ffs_anonymizer.frames.frame import Frame
from ffs_anonymizer.frames.message import is_depth
from ffs_anonymizer.frames.video_packets import codec_of, is_keyframe
from ffs_anonymizer.jobs.job import nobody, refuse_outputs, Tell
from ffs_anonymizer.jobs.journal import Journal, journal_of
from ffs_anonymizer.jobs.output import partial_of, record_of
from ffs_anonymizer.jobs.report import progress_bar, Report
from ffs_anonymizer.jobs.workers import map_in_processes
from ffs_anonymizer.models.model_file import read_model
from ffs_anonymizer.models.roster import DETECTORS, roster
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.pipeline import concurrency
from ffs_anonymizer.regions.detections import Detections
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.access import BagAccess
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

# A bag has this many chunks, or as many as make their sizes lie between these, in frames.
_CHUNKS = 32
_LEAST_FRAMES, _MOST_FRAMES = 16, 512
# Packets of a video that are decoded before a chunk to find its keyframe; beyond, the one pass
# looks itself.
_MOST_LEAD_IN = 2000
_FINGERPRINT_BYTES = 32
# Of each storage file what tells recordings apart: with it begins, and its summary ends, an mcap.
_EDGE_BYTES = 1 << 16
_WAY_OUT = 'or leave out --workers'


@dataclass(frozen=True)
class Chunk:
    """
    Say which part of a bag is to be looked at; plain data, to be sent to other machines.

    :param job: of the whole bag.
    :param job_sha256: of all that decides about what is detected; another job's results are
        refused.
    :param number: of the chunk, from 0.
    :param start_ns: recording time of its first message.
    :param end_ns: recording time of its last message.
    :param topics: names of those with pictures.
    :param frames: their messages in this time.
    """

    job: BagJob
    job_sha256: str
    number: int
    start_ns: int
    end_ns: int
    topics: tuple[str, ...]
    frames: int

    @property
    def name(self) -> str:
        """Return what its result is kept under."""
        return f'chunk {self.number}'


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


def plan_chunks(job: BagJob, *, plan: BagPlan | None = None) -> list[Chunk]:
    """
    Cut a bag by recording time, between messages; the same job is always cut alike.

    :param plan: of the job, where it was made already.
    :returns: nothing where nothing is to be detected.
    :raises AnonymizerError: the bag cannot be read from anywhere, or is refused altogether.
    """
    plan = plan or BagPlan(job)
    pictures = picture_topics(plan)
    if job.detections is not None or not pictures:
        return []
    try:
        access = access_to(job)
    except BagError as error:
        raise BagError(f'{error}; {_WAY_OUT}') from error
    stamps = np.sort(np.concatenate([stamps_within(job, access, name) for name in pictures]))
    if not len(stamps):
        return []
    size = min(max(-(-len(stamps) // _CHUNKS), _LEAST_FRAMES), _MOST_FRAMES)
    # Messages of one time stay together.
    cuts = np.unique(np.searchsorted(stamps, stamps[::size], 'left')).tolist()
    spans = [
        (int(stamps[start]), int(stamps[end - 1]), end - start)
        for start, end in zip(cuts, [*cuts[1:], len(stamps)], strict=True)
    ]
    job_sha256 = _sha256_of(job, access.files, spans)
    return [
        Chunk(job, job_sha256, number, start_ns, end_ns, pictures, frames)
        for number, (start_ns, end_ns, frames) in enumerate(spans)
    ]


def run_chunk(chunk: Chunk, *, threads: int = 0) -> ChunkResult:
    """
    Detect in all pictures of a chunk; networks stay open for the next one of the same settings.

    Pictures of which nothing can be said here are left to the one pass.

    :param threads: of the processor; 0: as the settings say.
    :raises AnonymizerError: the bag cannot be read, a network failed, or a picture cannot be
        anonymized and the job is to stop at one.
    """
    recipe = _recipe(chunk.job.settings, threads)
    ahead = recipe.networks.concurrency + 1
    fingerprints: list[bytes] = []
    found: list[Detections] = []
    waiting: list[tuple[bytes, Future[Detections]]] = []
    with ThreadPoolExecutor(recipe.networks.concurrency, thread_name_prefix='look') as pool:
        try:
            for mark, look in _looks(chunk, recipe):
                waiting.append((mark, pool.submit(look)))
                if len(waiting) > ahead:
                    _take(waiting.pop(0), fingerprints, found, chunk.job)
            for each in waiting:
                _take(each, fingerprints, found, chunk.job)
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


def join(
    job: BagJob,
    results: Sequence[ChunkResult],
    *,
    plan: BagPlan | None = None,
    journal: Journal | None = None,
    tell: Tell = nobody,
    shows_progress: bool = False,
) -> Report:
    """
    Write the bag in one pass over what chunks detected, byte for byte as without them.

    :param results: of chunks of this very job; those that are missing cost time, nothing else.
    :param journal: of the job, where there is one.
    :raises AnonymizerError: there is no output.
    """
    return conversion.run(
        job,
        plan=plan,
        detected=DetectedBefore(results),
        journal=journal,
        tell=tell,
        shows_progress=shows_progress,
    )


def run(
    job: BagJob,
    *,
    workers: int,
    plan: BagPlan | None = None,
    tell: Tell = nobody,
    shows_progress: bool = False,
) -> Report:
    """
    Write a bag with several processes, and go on where a run that was killed ended.

    :param workers: processes that detect; they share the threads of the settings.
    :raises AnonymizerError: there is no output; chunks that are done are kept for the next run.
    """
    started = time.monotonic()
    if not os.path.lexists(partial_of(job.target)):
        if job.skips_existing and job.target.exists():
            return Report()
        refuse_outputs(job, [job.target, record_of(job.target)])
    plan = plan or BagPlan(job)
    chunks = plan_chunks(job, plan=plan)
    if not chunks:
        return conversion.run(job, plan=plan, tell=tell, shows_progress=shows_progress)
    with journal_of(job.target, chunks[0].job_sha256) as journal:
        if journal.is_finished:
            tell('resuming: all is there, and gets its names')
            journal.give_names()
            return _report_in(journal)
        refuse_outputs(job, [job.target, record_of(job.target)], resumes=True)
        check_first_images(plan)
        results = _detected(chunks, journal, workers, tell, shows_progress=shows_progress)
        report = join(
            job, results, plan=plan, journal=journal, tell=tell, shows_progress=shows_progress
        )
    report.seconds = time.monotonic() - started
    return report


def kept_results(chunks: Sequence[Chunk], journal: Journal) -> dict[int, ChunkResult]:
    """Return the results that a journal holds whole, by number of the chunk."""
    results = {}
    for chunk in chunks:
        data = journal.kept(chunk.name)
        if data is not None:
            results[chunk.number] = ChunkResult.unpacked(chunk, data)
    return results


def _detected(
    chunks: Sequence[Chunk],
    journal: Journal,
    workers: int,
    tell: Tell,
    *,
    shows_progress: bool,
) -> list[ChunkResult]:
    """Return the results of all chunks, those of an earlier run among them."""
    results = kept_results(chunks, journal)
    damaged = sum(chunk.name in journal.names for chunk in chunks) - len(results)
    if results or damaged:
        words = f', {damaged} damaged ones are done again' if damaged else ''
        tell(f'resuming: {len(results)} of {len(chunks)} chunks are there{words}')
    missing = [chunk for chunk in chunks if chunk.number not in results]
    workers = min(workers, len(missing))
    if not missing:
        return list(results.values())
    most = chunks[0].job.settings.threads or cores()
    work = functools.partial(run_chunk, threads=max(1, most // workers))
    bar = progress_bar(total=sum(c.frames for c in chunks), shown=shows_progress, unit='frames')
    with bar:
        bar.update(sum(chunk.frames for chunk in chunks if chunk.number in results))
        for which, result in map_in_processes(work, missing, workers=workers):
            journal.keep(missing[which].name, result.packed())
            results[result.number] = result
            bar.update(missing[which].frames)
    return [results[chunk.number] for chunk in chunks]


def _report_in(journal: Journal) -> Report:
    data = journal.kept(conversion.REPORT)
    if data is None:
        return Report(written=1, undone=['the report of the killed run is damaged'])
    return Report.of_dict(json.loads(data))


def picture_topics(plan: BagPlan) -> tuple[str, ...]:
    """Return the names of the topics in whose pictures something is to be detected."""
    names = [name for name, _ in plan.actions]
    return tuple(
        sorted(
            key[0]
            for key, action in plan.actions.items()
            if (action is Action.ANONYMIZE or _is_own_picture(plan, key, action))
            # Under two types at once, only the one pass knows which message is what.
            and names.count(key[0]) == 1
        )
    )


def _is_own_picture(plan: BagPlan, key: tuple[str, str], action: Action) -> bool:
    return action is Action.CLOUD and not plan.sensors.links(*key)


def access_to(job: BagJob) -> BagAccess:
    """
    Return the source, open for reading from anywhere.

    :raises BagError: it cannot be read so.
    """
    most_bytes = job.settings.limits.max_message_mb << 20
    return BagAccess(job.source, most_message_bytes=most_bytes)


def stamps_within(job: BagJob, access: BagAccess, topic: str) -> NDArray[np.int64]:
    """Return when those messages of a topic were recorded that the job is for."""
    stamps = np.array(access.stamps_ns(topic), np.int64)
    first = 0 if job.start_ns is None else np.searchsorted(stamps, job.start_ns, 'left')
    last = len(stamps) if job.end_ns is None else np.searchsorted(stamps, job.end_ns, 'right')
    return stamps[first:last]


def _sha256_of(job: BagJob, files: Sequence[Path], spans: Sequence[tuple[int, int, int]]) -> str:
    """Return a hash of all that decides about what is detected and about the output."""
    models = [role for role in roster(job.settings) if role.name in DETECTORS]
    told = {
        'version': __version__,
        'settings': job.settings.sha256,
        'models': [read_model(role.path).sha256 for role in models],
        # A frame that cannot be anonymized may be met with another answer in the next run.
        'job': repr(replace(job, source=Path(), target=Path(), on_error='', skips_existing=False)),
        'files': [(file.name, file.stat().st_size, _edges(file)) for file in files],
        'spans': spans,
    }
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _edges(path: Path) -> str:
    """Return a hash of how a file begins and ends; what lies between, fingerprints tell."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        digest.update(file.read(_EDGE_BYTES))
        file.seek(max(path.stat().st_size - _EDGE_BYTES, 0))
        digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()


@functools.lru_cache(1)
def _recipe(settings: Settings, threads: int) -> Recipe:
    """Return a recipe that finds, and stays open as long as the process works for one job."""
    # What only paints is not opened.
    settings = settings.updated({'face.method': 'solid', 'plate.method': 'solid'})
    if threads:
        settings = settings.updated({'threads': threads})
    return Recipe(Networks(settings, concurrency=concurrency(settings)), settings)


@functools.lru_cache(1)
def _opened(job: BagJob) -> tuple[BagAccess, Sensors]:
    # Payloads come decompressed out of it.
    return access_to(job), Sensors(job.settings, are_compressed=False)


def _looks(chunk: Chunk, recipe: Recipe) -> Iterator[tuple[bytes, Callable[[], Detections]]]:
    """Yield each picture's fingerprint, and how to look for what is in it."""
    job = chunk.job
    access, sensors = _opened(job)
    span = chunk.start_ns, chunk.end_ns
    pictures = [pictures_of(access, topic, *span) for topic in chunk.topics]
    for log_ns, topic, picture in heapq.merge(*pictures, key=lambda one: one[0]):
        mark = fingerprint(picture, (topic, access.types[topic]))
        decode = decoding(picture, topic, job.settings, sensors)
        yield mark, functools.partial(_look, recipe, decode, topic, log_ns)


def _look(recipe: Recipe, decode: Callable[[], Frame], topic: str, log_ns: int) -> Detections:
    try:
        return recipe.detect(decode())
    except Exception as error:
        raise conversion.stopped_at(topic, log_ns, AnonymizerError.of(error)) from error


def _take(
    one: tuple[bytes, Future[Detections]],
    fingerprints: list[bytes],
    found: list[Detections],
    job: BagJob,
) -> None:
    mark, future = one
    try:
        detections = future.result()
    except BagError:
        if job.on_error == 'stop':
            raise
        # The one pass meets it again, and makes it black.
        return
    fingerprints.append(mark)
    found.append(detections)


def pictures_of(
    access: BagAccess, topic: str, start_ns: int, end_ns: int
) -> Iterator[tuple[int, str, Picture]]:
    """
    Yield the pictures of a topic, with recording time and topic; what cannot be read is left out.

    :param start_ns: recording time of the first message.
    :param end_ns: recording time of the last message.
    """
    stamps, type_name = access.stamps_ns(topic), access.types[topic]
    first = int(np.searchsorted(stamps, start_ns, 'left'))
    last = int(np.searchsorted(stamps, end_ns, 'right'))
    if type_name in cdr.VIDEO_TYPES:
        yield from _video_pictures(access, topic, stamps, first, last)
        return
    for number in range(first, last):
        payload = access.payload(topic, number)
        try:
            if type_name == cdr.POINT_CLOUD:
                picture: Any = cdr.parse_point_cloud(payload)
                if not may_show_persons(picture):
                    continue
            else:
                picture = cdr.parse(type_name, payload)
                is_image = isinstance(picture, cdr.CdrImage)
                if is_depth(picture.encoding if is_image else picture.format, topic):
                    continue
        except AnonymizerError:
            continue
        yield stamps[number], topic, picture


def _video_pictures(
    access: BagAccess, topic: str, stamps: Sequence[int], first: int, last: int
) -> Iterator[tuple[int, str, Picture]]:
    """Yield the pictures of a video's packets, decoded from the keyframe before them on."""
    if first == last:
        return
    begin = first
    while not _begins(access, topic, begin) and begin and first - begin < _MOST_LEAD_IN:
        begin -= 1
    videos = Videos()
    for number in range(begin, last):
        try:
            packet = cdr.parse(access.types[topic], access.payload(topic, number))
            assert isinstance(packet, cdr.CdrPacket)
            picture = videos.read(topic, packet)
        except ImageError:
            continue
        if number >= first:
            yield stamps[number], topic, picture


def _begins(access: BagAccess, topic: str, number: int) -> bool:
    try:
        packet = cdr.parse(access.types[topic], access.payload(topic, number))
        assert isinstance(packet, cdr.CdrPacket)
        return is_keyframe(packet.data, codec_of(packet.format))
    except ImageError:
        return False
