"""Images and videos in, the same without faces and plates out: what is done with each file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cache, partial
import os
from pathlib import Path
import shutil
import time
from typing import Any, TYPE_CHECKING

import cv2
from ffs_anonymizer.errors import AnonymizerError, ImageError, MediaError
from ffs_anonymizer.frames.compressed import decode_file
from ffs_anonymizer.frames.message import MOST_PIXELS, rotation_of
from ffs_anonymizer.jobs.chunks import (
    detect_in_processes,
    Detected,
    finished_report,
    refuse_others,
)
from ffs_anonymizer.jobs.earlier import Earlier, earlier_of
from ffs_anonymizer.jobs.fleet import Crew
from ffs_anonymizer.jobs.job import (
    looked_up,
    nobody,
    opened,
    raising,
    read_list,
    refuse_outputs,
    Tell,
    written_list,
)
from ffs_anonymizer.jobs.journal import is_empty, Journal, journal_of
from ffs_anonymizer.jobs.output import BESIDE, JOURNAL, new_file, Outputs, partial_of, refuse
from ffs_anonymizer.jobs.record import write_record
from ffs_anonymizer.jobs.report import progress_bar, Report
from ffs_anonymizer.media.files import MediaFile, MediaJob, MediaPlan
from ffs_anonymizer.media.zones import check_zones
from ffs_anonymizer.pipeline import anonymize_all, Outcome, Task
from ffs_anonymizer.regions.detections import read_boxes
from ffs_anonymizer.regions.detections_file import DetectionsReader, DetectionsWriter
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ffs_anonymizer.anonymizer import Recipe
    from ffs_anonymizer.frames.message import Frame
    from ffs_anonymizer.media.chunks import VideoChunk
    from ffs_anonymizer.networks import Networks
    from ffs_anonymizer.settings.runtime import Settings

_DECODED_PER_FILE_BYTE = 10
_PREVIEW_SIDE_PX = 1280
_WRITERS = 8


def run(
    job: MediaJob,
    *,
    workers: int = 0,
    crew: Crew | None = None,
    plan: MediaPlan | None = None,
    detected: Detected | None = None,
    networks: Networks | None = None,
    tell: Tell = nobody,
    warn: Tell = nobody,
    shows_progress: bool = False,
) -> Report:
    """
    Work on all files; each output has its final name only when it is whole.

    :param workers: processes that detect in a video, side by side; what they have done outlives
        a kill, and the same job goes on. 0: one pass in this process.
    :param crew: who detects in their place, on the machines of a cluster.
    :param plan: of the job, where it was made already.
    :param detected: what was detected in videos already; in other pictures, the networks look.
    :param networks: that are open already.
    :param tell: is told which models run, a line each, and what an earlier run has done.
    :param warn: is told of settings that have no effect.
    :param shows_progress: whether a bar is drawn on standard error.
    :raises AnonymizerError: nothing can be done at all; what fails in one file is in the report.
    """
    started, started_at = time.monotonic(), datetime.now(timezone.utc)
    plan = plan or MediaPlan.of(job)
    chunks_of = cache(partial(_chunks, job, workers))
    with _outputs_of(job, plan, chunks_of) as outputs:
        if isinstance(outputs, Journal) and outputs.is_finished:
            return finished_report(outputs, tell)
        refuse_outputs(job, plan.outputs(job), (*outputs.resumed, *_begun(plan, workers)))
        check_zones(job.settings, plan.all_files, warn)
        report = Report(undone=plan.problems)
        with contextlib.ExitStack() as stack:
            recipe = stack.enter_context(opened(job.settings, report, tell, networks))
            found = stack.enter_context(read_list(job, [file.name for file in plan.files]))
            earlier = stack.enter_context(earlier_of(job, found))
            lines = stack.enter_context(written_list(job, outputs))
            total = sum(frame_count(file) for file in plan.files)
            bar = stack.enter_context(
                progress_bar(total=total, shown=shows_progress, unit='frame')
            )
            work = Work(job, recipe, report, found, lines, bar.update, outputs, detected)
            files = [file for file in plan.files if not _is_kept(work, file, earlier)]
            anonymize_images(work, [file for file in files if not file.is_video])
            for file in [*files, *_named(plan, workers)]:
                if file.is_video:
                    with listed(file, report), needing_pyav():
                        chunks = chunks_of(file)
                        _anonymize_video(
                            work, file, chunks, workers, crew, tell, shows_progress=shows_progress
                        )
        if isinstance(outputs, Journal) and not report.written:
            # What is done stays for the next run.
            raise MediaError('; '.join(report.undone))
        write_record(
            job,
            plan.output(job),
            report,
            started_at,
            outputs=outputs,
            only=[file.source for file in plan.all_files] if job.pattern else None,
        )
        report.seconds = time.monotonic() - started
        outputs.finish(report.as_dict())
    return report


@contextmanager
def _outputs_of(
    job: MediaJob, plan: MediaPlan, chunks_of: Callable[[MediaFile], list[VideoChunk]]
) -> Iterator[Outputs]:
    """Yield where all outputs of a job are made: in the journal of the one video, or beside."""
    file = plan.all_files[0] if job.source.is_file() else None
    chunks = []
    if file is not None and file.is_video and (plan.files or _has_journal(file)):
        chunks = chunks_of(file)
    if file is None or not chunks:
        yield BESIDE
        return
    with journal_of(file.target, chunks[0].job_sha256) as journal:
        yield journal


def _chunks(job: MediaJob, workers: int, file: MediaFile) -> list[VideoChunk]:
    """Return what several processes do of a video; nothing: it is done in one pass."""
    if not workers:
        return []
    with needing_pyav():
        from ffs_anonymizer.media.chunks import plan_chunks
    return plan_chunks(job, file)


def _has_journal(file: MediaFile) -> bool:
    return file.is_video and os.path.lexists(partial_of(file.target) / JOURNAL)


def _begun(plan: MediaPlan, workers: int) -> list[Path]:
    """Return the videos that an earlier run began, and this one goes on with."""
    return [
        file.target
        for file in plan.files
        if workers
        and (_has_journal(file) or (file.is_video and is_empty(partial_of(file.target))))
    ]


def _named(plan: MediaPlan, workers: int) -> list[MediaFile]:
    """Return the videos that a run was killed over while it gave them their names."""
    left = (file for file in plan.all_files if file not in plan.files)
    return [file for file in left if workers and _has_journal(file)]


def _anonymize_video(
    work: Work,
    file: MediaFile,
    chunks: list[VideoChunk],
    workers: int,
    crew: Crew | None,
    tell: Tell,
    *,
    shows_progress: bool,
) -> None:
    from ffs_anonymizer.media.chunks import run_chunk
    from ffs_anonymizer.media.video import anonymize_video

    if not chunks:
        anonymize_video(work, file)
        return
    with contextlib.ExitStack() as stack:
        journal = work.outputs
        if not isinstance(journal, Journal):
            journal = stack.enter_context(journal_of(file.target, chunks[0].job_sha256))
        if journal.is_finished:
            part = finished_report(journal, tell)
            if work.lines is not None:
                part.undone.append(f'{file.name}: was whole before, so no list says what is in it')
            work.report.add(part)
            return
        refuse([file.target], source=work.job.source, resumed=journal.resumed)
        # The record names those that are open here.
        refuse_others(chunks[0].detectors, work.recipe)
        detected = detect_in_processes(
            run_chunk,
            chunks,
            journal,
            work.job.settings,
            workers=workers,
            crew=crew,
            tell=tell,
            shows_progress=shows_progress,
        )
        part = Report()
        try:
            anonymize_video(replace(work, report=part, outputs=journal, detected=detected), file)
        finally:
            work.report.add(part)
        if journal is not work.outputs:
            journal.finish(part.as_dict())


@dataclass(frozen=True)
class Work:
    """
    Hold what all files of a job share while it is done.

    :param found: list of what was found before.
    :param lines: takes what is found.
    :param progress: is called for each frame.
    :param outputs: that videos are made in.
    :param detected: what was detected before in a video, and is to be tracked.
    """

    job: MediaJob
    recipe: Recipe
    report: Report
    found: DetectionsReader | None
    lines: DetectionsWriter | None
    progress: Callable[[], object]
    outputs: Outputs = BESIDE
    detected: Detected | None = None

    def enter(self, file: MediaFile, stamp_ns: int | None, outcome: Outcome[Any]) -> None:
        """Enter a frame into the list of detections."""
        if self.lines is not None:
            self.lines.add(
                file.name,
                stamp_ns=stamp_ns,
                size_wh=outcome.size_wh,
                regions=outcome.regions,
                error='' if outcome.error is None else str(outcome.error),
            )


@contextmanager
def listed(file: MediaFile, report: Report) -> Iterator[None]:
    """List what goes wrong with one file, and go on."""
    try:
        yield
    except AnonymizerError as error:
        text = str(error)
        named = text.startswith((str(file.source), str(file.target)))
        report.undone.append(text if named else f'{file.name}: {text}')
    else:
        report.written += 1


@contextmanager
def needing_pyav() -> Iterator[None]:
    """
    Say of a video that the library for it is missing.

    :raises MediaError: in place of an ImportError.
    """
    try:
        yield
    except ImportError as error:
        raise MediaError(f'a video, but {error}') from error


def _is_kept(work: Work, file: MediaFile, earlier: Earlier | None) -> bool:
    """Take a file over from an earlier output where nothing of it was corrected."""
    if earlier is None or work.found is None or (file.film and earlier.follows):
        return False
    if not earlier.is_same(file.name):
        return False
    with listed(file, work.report):
        before = earlier.output / file.name if earlier.output.is_dir() else earlier.output
        with new_file(file.target) as partial:
            shutil.copyfile(before, partial)
        for stamp_ns, known in work.found.all_of(file.name):
            work.report.count_kept(file.name, known.regions)
            if work.lines is not None:
                work.lines.add(
                    file.name, stamp_ns=stamp_ns, size_wh=known.size_wh, regions=known.regions
                )
            work.progress()
    return True


def anonymize_images(work: Work, files: list[MediaFile]) -> None:
    """Make the outputs of all images."""
    tasks = image_tasks(work, files)
    write = partial(_write_image, preview=work.job.previews)
    with (
        contextlib.closing(anonymize_all(tasks, work.recipe)) as outcomes,
        contextlib.closing(_in_threads(write, outcomes)) as written,
    ):
        for outcome, done in written:
            file = outcome.item.file
            work.enter(file, None, outcome)
            with listed(file, work.report):
                done.result()
                work.report.count(file.name, outcome)
            work.progress()


def _in_threads(
    write: Callable[[Outcome[Loaded]], None], outcomes: Iterable[Outcome[Loaded]]
) -> Generator[tuple[Outcome[Loaded], Future[None]], None, None]:
    """Yield each outcome in order, and its writing: disks take longer to be sure than to write."""
    waiting: deque[tuple[Outcome[Loaded], Future[None]]] = deque()
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix='disk') as threads:
        for outcome in outcomes:
            waiting.append((outcome, threads.submit(write, outcome)))
            if len(waiting) > _WRITERS:
                yield waiting.popleft()
        yield from waiting


@dataclass(frozen=True)
class Loaded:
    """Hold an image that is read when it is decoded."""

    file: MediaFile
    settings: Settings

    def decode(self) -> Frame:
        """
        Return the image as the recipe takes it.

        :raises AnonymizerError: it cannot be read.
        """
        try:
            data = self.file.source.read_bytes()
        except OSError as error:
            raise MediaError(f'{self.file.source}: {error.strerror or error}') from error
        return self.decoded(data)

    def decoded(self, data: bytes) -> Frame:
        """Return an image of the same kind, of other bytes."""
        rotation = rotation_of(self.settings.rotation, *self.file.zone_names)
        limit = self.settings.limits.max_pixels or MOST_PIXELS
        return decode_file(data, rotation=rotation, most_pixels=limit)


def image_tasks(work: Work, files: Iterable[MediaFile]) -> Iterator[Task[Loaded]]:
    """Yield how to make the output of each image."""
    boxes = work.job.boxes
    # One film begins when nothing waits for the end of the one before any more.
    apart_ns = int(2e6 * work.job.settings.tracker.look_ahead_ms) + 1
    begun_ns, clock_ns, film = 0, 0, ''
    for file in files:
        if file.film != film:
            begun_ns, film = clock_ns + apart_ns, file.film
        clock_ns = begun_ns + (file.stamp_ns or 0)
        loaded = Loaded(file, work.job.settings)
        decode: Callable[[], Frame] = loaded.decode
        detections = None
        size_bytes = 0
        # One that has gone is told when it is read.
        with contextlib.suppress(OSError):
            size_bytes = file.source.stat().st_size * _DECODED_PER_FILE_BYTE
        try:
            if boxes is not None:
                detections = read_boxes(boxes / Path(file.name).with_suffix('.txt'))
        except AnonymizerError as error:
            decode = raising(error)
        decode, known = looked_up(work.found, decode, file.name, stamp_ns=None)
        yield Task(
            loaded,
            decode,
            stream=file.film or file.name,
            aliases=file.zone_names,
            stamp_ns=file.stamp_ns,
            clock_ns=clock_ns,
            size_bytes=size_bytes,
            detections=detections,
            found=None if known is None else known.regions,
        )


def _write_image(outcome: Outcome[Loaded], *, preview: bool) -> None:
    file = outcome.item.file
    if outcome.error is not None:
        raise outcome.error
    assert outcome.data is not None
    data = bytes(outcome.data)
    with contextlib.ExitStack() as stack:
        if preview:
            before = outcome.item.decode().image_bgr
            after = outcome.item.decoded(data).image_bgr
            stack.enter_context(new_file(file.preview)).write_bytes(
                side_by_side(file, before, after)
            )
        stack.enter_context(new_file(file.target)).write_bytes(data)


def side_by_side(file: MediaFile, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> bytes:
    """
    Return a JPEG of a frame before and after.

    :raises ImageError: it cannot be encoded.
    """
    scale = min(1.0, _PREVIEW_SIDE_PX / max(before.shape[:2]))
    sides = [
        cv2.resize(side, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for side in (before, after)
    ]
    done, encoded = cv2.imencode('.jpg', np.hstack(sides))
    if not done:
        raise ImageError(f'{file.preview}: OpenCV cannot encode the preview')
    return bytes(encoded)


def frame_count(file: MediaFile) -> int:
    """Return how many frames a file has, about; 0 where nothing says it."""
    if not file.is_video:
        return 1
    try:
        from ffs_anonymizer.frames.video import count_pictures
    except ImportError:
        return 0
    return count_pictures(file.source)
