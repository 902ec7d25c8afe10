"""What images and videos would amount to, from a sample of a few seconds."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
from dataclasses import replace
from pathlib import Path
import tempfile
import time

from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.jobs.estimate import (
    COPIED_BYTES_PER_S,
    Estimate,
    SAMPLE_S,
    seconds_a_frame,
    spread,
)
from ffs_anonymizer.jobs.job import nobody, read_list
from ffs_anonymizer.jobs.report import Report
from ffs_anonymizer.media.conversion import frame_count, image_tasks, needing_pyav, Work
from ffs_anonymizer.media.files import MediaFile, MediaJob, MediaPlan
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.pipeline import anonymize_all, concurrency

# In places that lie evenly over all.
_MOST_IMAGES, _MOST_VIDEOS = 64, 4
_MOST_FRAMES = 250


def estimate(job: MediaJob, plan: MediaPlan, *, sample_s: float = SAMPLE_S) -> Estimate:
    """
    Anonymize a sample of a job's images and frames, and throw it away.

    :param sample_s: how long; the networks are opened before.
    :raises AnonymizerError: a file cannot be read, or a network failed.
    """
    images = [replace(f, film='', stamp_ns=None) for f in plan.files if not f.is_video]
    videos = [file for file in plan.files if file.is_video]
    share_s = sample_s / ((1 if images else 0) + (1 if videos else 0) or 1)
    with contextlib.ExitStack() as stack:
        networks = Networks(job.settings, concurrency=concurrency(job.settings))
        recipe = Recipe(stack.enter_context(networks), job.settings)
        found = stack.enter_context(read_list(job, [file.name for file in plan.files]))
        work = Work(job, recipe, Report(), found, None, lambda: nobody(''))
        total = Estimate(0, 0.0, 0.0, 0)
        if images:
            total += _of_images(work, images, share_s)
        if videos:
            with needing_pyav():
                total += _of_videos(work, videos, share_s)
    return total


def _of_images(work: Work, files: Sequence[MediaFile], sample_s: float) -> Estimate:
    sizes = {file.name: file.source.stat().st_size for file in files if file.source.is_file()}
    times: list[float] = []
    before = after = 0
    tasks = image_tasks(work, spread(files, _MOST_IMAGES))
    with contextlib.closing(anonymize_all(tasks, work.recipe)) as outcomes:
        for outcome in outcomes:
            times.append(time.monotonic())
            if outcome.data is not None:
                before += sizes.get(outcome.item.file.name, 0)
                after += len(outcome.data)
            if times[-1] - times[0] > sample_s:
                break
    size_bytes = sum(sizes.values())
    copied_s = size_bytes / COPIED_BYTES_PER_S
    seconds = len(files) * seconds_a_frame(times) + copied_s
    return Estimate(
        len(files), seconds, size_bytes * (after / before if before else 1), len(times)
    )


def _of_videos(work: Work, files: Sequence[MediaFile], sample_s: float) -> Estimate:
    counts = [frame_count(file) for file in files]
    chosen = spread(files, _MOST_VIDEOS)
    sampled = [_of_video(work, file, sample_s / len(chosen)) for file in chosen]
    frames, seen = sum(counts), sum(one.sampled for one in sampled)
    # A stretch of each counts by its length.
    a_frame_s = sum(one.seconds * one.sampled for one in sampled) / max(seen, 1)
    a_frame_bytes = sum(one.size_bytes for one in sampled) / max(seen, 1)
    copied_s = sum(file.source.stat().st_size for file in files) / COPIED_BYTES_PER_S
    return Estimate(frames, frames * a_frame_s + copied_s, frames * a_frame_bytes, seen)


def _of_video(work: Work, file: MediaFile, sample_s: float) -> Estimate:
    """Return seconds of one frame, and the bytes of all that were sampled from the middle."""
    from ffs_anonymizer.frames.video import VideoSource, VideoTarget
    from ffs_anonymizer.frames.video_seeker import VideoSeeker
    from ffs_anonymizer.media.video import shot_tasks

    times: list[float] = []
    with contextlib.ExitStack() as stack:
        # It holds but what is anonymized.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='ffs_estimate_')))
        source = stack.enter_context(contextlib.closing(VideoSource(file.source)))
        seeker = stack.enter_context(contextlib.closing(VideoSeeker(file.source)))
        made = folder / 'sample'
        target = VideoTarget(made, source, suffix=file.kind, crf=work.job.crf)
        stack.callback(target.close)
        middle = len(seeker.stamps_ns) // 2
        tasks = shot_tasks(seeker.shots(middle, _MOST_FRAMES), source, work, file)
        written = 0
        with contextlib.closing(anonymize_all(tasks, work.recipe)) as outcomes:
            for outcome in outcomes:
                if outcome.data is not None:
                    target.write(outcome.item, outcome.item.samples.with_data(outcome.data))
                    written += 1
                times.append(time.monotonic())
                if times[-1] - times[0] > sample_s:
                    break
        if written:
            target.finish()
        size_bytes = made.stat().st_size if written else 0
    return Estimate(0, seconds_a_frame(times), size_bytes, len(times))
