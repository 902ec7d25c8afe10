"""One bag, many processes: detection in chunks of time, and one pass that makes the bag of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
import functools
import heapq
import os
import time
from typing import Any

from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.bag import conversion
from ffs_anonymizer.bag.measured import may_show_persons, Sensors
from ffs_anonymizer.bag.pictures import decoding, fingerprint, Picture
from ffs_anonymizer.bag.plan import BagJob, BagPlan
from ffs_anonymizer.bag.preflight import check_first_images
from ffs_anonymizer.bag.selection import Action
from ffs_anonymizer.bag.video import Videos
from ffs_anonymizer.errors import AnonymizerError, BagError, ImageError
from ffs_anonymizer.frames.frame import Frame
from ffs_anonymizer.frames.message import is_depth
from ffs_anonymizer.frames.video_packets import codec_of, is_keyframe
from ffs_anonymizer.jobs.chunks import (
    Chunk,
    chunk_frames,
    ChunkResult,
    detect_in_processes,
    detectors_of,
    finished_report,
    look_at,
    recipe_that_finds,
    refuse_others,
    sha256_of,
)
from ffs_anonymizer.jobs.fleet import Crew
from ffs_anonymizer.jobs.job import nobody, opened, refuse_outputs, Tell
from ffs_anonymizer.jobs.journal import journal_of
from ffs_anonymizer.jobs.output import partial_of, record_of
from ffs_anonymizer.jobs.report import Report
from ffs_anonymizer.regions.detections import Detections
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.access import BagAccess
import numpy as np
from numpy.typing import NDArray

# Packets of a video that are decoded before a chunk to find its keyframe; beyond, the one pass
# looks itself.
_MOST_LEAD_IN = 2000
_WAY_OUT = 'or leave out --workers'


@dataclass(frozen=True, kw_only=True)
class BagChunk(Chunk):
    """
    Say which part of a bag is to be looked at.

    :param job: of the whole bag.
    :param start_ns: recording time of its first message.
    :param end_ns: recording time of its last message.
    :param topics: names of those with pictures.
    """

    job: BagJob
    start_ns: int
    end_ns: int
    topics: tuple[str, ...]


def plan_chunks(job: BagJob, *, plan: BagPlan | None = None) -> list[BagChunk]:
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
    size = chunk_frames(len(stamps))
    # Messages of one time stay together.
    cuts = np.unique(np.searchsorted(stamps, stamps[::size], 'left')).tolist()
    spans = [
        (int(stamps[start]), int(stamps[end - 1]), end - start)
        for start, end in zip(cuts, [*cuts[1:], len(stamps)], strict=True)
    ]
    detectors = detectors_of(job.settings)
    job_sha256 = sha256_of(job, access.files, spans, detectors)
    return [
        BagChunk(
            job_sha256=job_sha256,
            detectors=detectors,
            number=number,
            frames=frames,
            job=job,
            start_ns=start_ns,
            end_ns=end_ns,
            topics=pictures,
        )
        for number, (start_ns, end_ns, frames) in enumerate(spans)
    ]


def run_chunk(chunk: BagChunk, threads: int = 0, recipe: Recipe | None = None) -> ChunkResult:
    """
    Detect in all pictures of a chunk; networks stay open for the next one of the same settings.

    Pictures of which nothing can be said here are left to the one pass.

    :param threads: of the processor; 0: as the settings say.
    :param recipe: that is open already, of the chunk's settings.
    :raises AnonymizerError: the bag cannot be read, a network failed, or a picture cannot be
        anonymized and the job is to stop at one.
    """
    recipe = recipe or recipe_that_finds(chunk.job.settings, threads)
    return look_at(chunk, _looks(chunk, recipe), recipe, stops=chunk.job.on_error == 'stop')


def run(
    job: BagJob,
    *,
    workers: int,
    crew: Crew | None = None,
    plan: BagPlan | None = None,
    tell: Tell = nobody,
    shows_progress: bool = False,
) -> Report:
    """
    Write a bag with several processes, and go on where a run that was killed ended.

    :param workers: processes that detect; they share the threads of the settings.
    :param crew: who detects in their place, on the machines of a cluster.
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
            return finished_report(journal, tell)
        refuse_outputs(job, [job.target, record_of(job.target)], journal.resumed)
        check_first_images(plan)
        with opened(job.settings, Report(), nobody) as recipe:
            # The record names those that are open here.
            refuse_others(chunks[0].detectors, recipe)
            detected = detect_in_processes(
                run_chunk,
                chunks,
                journal,
                job.settings,
                workers=workers,
                crew=crew,
                tell=tell,
                shows_progress=shows_progress,
            )
            report = conversion.run(
                job,
                plan=plan,
                detected=detected,
                outputs=journal,
                networks=recipe.networks,
                tell=tell,
                shows_progress=shows_progress,
            )
    report.seconds = time.monotonic() - started
    return report


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


@functools.lru_cache(1)
def _opened(job: BagJob) -> tuple[BagAccess, Sensors]:
    # Payloads come decompressed out of it.
    return access_to(job), Sensors(job.settings, are_compressed=False)


def _looks(chunk: BagChunk, recipe: Recipe) -> Iterator[tuple[bytes, Callable[[], Detections]]]:
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
