"""What a bag would amount to, from a sample of a few seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterator
import contextlib
import itertools
import time

from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.bag.chunks import access_to, picture_topics, pictures_of, stamps_within
from ffs_anonymizer.bag.pictures import decoding, Picture
from ffs_anonymizer.bag.plan import BagPlan
from ffs_anonymizer.jobs.estimate import (
    COPIED_BYTES_PER_S,
    Estimate,
    SAMPLE_S,
    seconds_a_frame,
)
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.pipeline import anonymize_all, concurrency, Task
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.access import BagAccess

# Of a topic, in places that lie evenly over its time.
_MOST_SAMPLED = 64


def estimate(plan: BagPlan, *, sample_s: float = SAMPLE_S) -> Estimate:
    """
    Anonymize a sample of a bag's pictures, and throw it away.

    :param sample_s: how long; the networks are opened before.
    :raises AnonymizerError: the bag cannot be read from anywhere, or a network failed.
    """
    job, size_bytes = plan.job, float(plan.reader.size_bytes)
    copied_s = size_bytes / COPIED_BYTES_PER_S
    topics = picture_topics(plan)
    if not topics:
        return Estimate(0, copied_s, size_bytes, 0)
    access = access_to(job)
    counts = {topic: len(stamps_within(job, access, topic)) for topic in topics}
    frames = sum(counts.values())
    before: dict[str, list[int]] = defaultdict(list)
    after: dict[str, list[int]] = defaultdict(list)
    times: list[float] = []
    with Networks(job.settings, concurrency=concurrency(job.settings)) as networks:
        recipe = Recipe(networks, job.settings)
        tasks = _tasks(plan, access, counts)
        with contextlib.closing(anonymize_all(tasks, recipe)) as outcomes:
            for outcome in outcomes:
                times.append(time.monotonic())
                topic, given = outcome.item
                if outcome.data is not None:
                    before[topic].append(given)
                    # A video is encoded as the pass goes, to about what it was.
                    is_video = access.types[topic] in cdr.VIDEO_TYPES
                    after[topic].append(given if is_video else len(outcome.data))
                if times[-1] - times[0] > sample_s:
                    break
    for topic, sizes in after.items():
        change = sum(sizes) / len(sizes) - sum(before[topic]) / len(before[topic])
        size_bytes += change * counts[topic]
    seconds = frames * seconds_a_frame(times) + copied_s
    return Estimate(frames, seconds, max(size_bytes, 0.0), len(times))


def _tasks(
    plan: BagPlan, access: BagAccess, counts: dict[str, int]
) -> Generator[Task[tuple[str, int]], None, None]:
    """Yield pictures of all topics, each as a still."""
    settings = plan.job.settings
    sources = [_sampled(plan, access, topic) for topic in counts]
    for row in itertools.zip_longest(*sources):
        for one in row:
            if one is None:
                continue
            topic, picture = one
            decode = decoding(picture, topic, settings, plan.sensors)
            size = len(picture.packet.data) if hasattr(picture, 'packet') else len(picture.data)
            yield Task((topic, size), decode, stream=topic)


def _sampled(plan: BagPlan, access: BagAccess, topic: str) -> Iterator[tuple[str, Picture]]:
    stamps = stamps_within(plan.job, access, topic)
    if access.types[topic] in cdr.VIDEO_TYPES:
        # Each of its packets builds on those before: a stretch from the middle.
        spans = [(int(stamps[len(stamps) // 2]), int(stamps[-1]))] if len(stamps) else []
    else:
        step = max(1, len(stamps) // _MOST_SAMPLED)
        spans = [(int(stamp), int(stamp)) for stamp in stamps[step // 2 :: step]]
    for start_ns, end_ns in spans:
        for _, name, picture in pictures_of(access, topic, start_ns, end_ns):
            yield name, picture
