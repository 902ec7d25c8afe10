"""One video in, the same without faces and plates out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import contextlib
from functools import partial
from typing import Any, TYPE_CHECKING

from ffs_anonymizer.errors import AnonymizerError, MediaError
from ffs_anonymizer.frames.message import rotation_of
from ffs_anonymizer.frames.video import Shot, VideoSource, VideoTarget
from ffs_anonymizer.jobs.job import looked_up
from ffs_anonymizer.media.chunks import fingerprint
from ffs_anonymizer.media.conversion import side_by_side, Work
from ffs_anonymizer.media.files import MediaFile
from ffs_anonymizer.pipeline import anonymize_all, Task

if TYPE_CHECKING:
    from ffs_anonymizer.frames.frame import Frame


def anonymize_video(work: Work, file: MediaFile) -> None:
    """
    Make the output of a video.

    :raises AnonymizerError: there is none.
    """
    job = work.job
    if job.boxes is not None:
        raise MediaError('a video, for which there are no boxes: --boxes is for images')
    black = 0
    preview = b''
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(
            contextlib.closing(VideoSource(file.source, keep_audio=job.keeps_audio))
        )
        partial = stack.enter_context(work.outputs.file(file.target))
        target = stack.enter_context(
            contextlib.closing(VideoTarget(partial, source, suffix=file.kind, crf=job.crf))
        )
        tasks = shot_tasks(source, source, work, file)
        outcomes = anonymize_all(tasks, work.recipe)
        for outcome in stack.enter_context(contextlib.closing(outcomes)):
            shot = outcome.item
            if not isinstance(shot, Shot):
                target.write_sound(shot)
                continue
            if outcome.data is not None:
                samples = shot.samples.with_data(outcome.data)
            elif job.on_error == 'black':
                samples = source.black()
                black += 1
            else:
                raise MediaError(
                    f'{outcome.error}; with --on-error black this frame would be black'
                ) from outcome.error
            target.write(shot, samples)
            if job.previews and not preview and len(outcome.regions):
                before, after = shot.decode().image_bgr, samples.decode().image_bgr
                preview = side_by_side(file, before, after)
            work.report.count(file.name, outcome)
            work.enter(file, shot.stamp_ns, outcome)
            work.progress()
        target.finish()
        shortfall = source.shortfall()
        if preview:
            stack.enter_context(work.outputs.file(file.preview)).write_bytes(preview)
    if shortfall:
        work.report.undone.append(f'{file.name}: {shortfall}')
    if black:
        work.report.undone.append(
            f'{file.name}: {black} frames could not be anonymized and are black'
        )


def shot_tasks(
    items: Iterable[Any], source: VideoSource, work: Work, file: MediaFile
) -> Iterator[Task[Any]]:
    """
    Yield how to make the frames of a video.

    :param items: Shots, and packets of sound between them.
    :param source: that they are of.
    """
    frame_bytes = 8 * source.width * source.height
    rotation = rotation_of(work.job.settings.rotation, *file.zone_names)
    clock_ns = 0
    for item in items:
        if not isinstance(item, Shot):
            yield Task(item, clock_ns=clock_ns, size_bytes=item.size)
            continue
        clock_ns = item.stamp_ns
        decode: Callable[[], Frame] = partial(item.decode, rotation)
        decode, known = looked_up(work.found, decode, file.name, stamp_ns=item.stamp_ns)
        detections = None
        if work.detected is not None and known is None:
            # What cannot be decoded is told of when it is.
            with contextlib.suppress(AnonymizerError):
                detections = work.detected.find(fingerprint(item, rotation))
        yield Task(
            item,
            decode,
            stream=file.name,
            stamp_ns=item.stamp_ns,
            clock_ns=clock_ns,
            size_bytes=frame_bytes,
            detections=detections,
            found=None if known is None else known.regions,
        )
