"""One worker of a fleet: networks that stay open, and one job after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
import contextlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
import os
from pathlib import Path
import shutil
import socket
import tempfile
import time
from typing import Any

from ffs_anonymizer import __version__
from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.bag import chunks as bag_chunks
from ffs_anonymizer.bag.plan import BagJob, BagPlan
from ffs_anonymizer.bag.preflight import check_first_images
from ffs_anonymizer.cores import cores
from ffs_anonymizer.errors import AnonymizerError, BagError, MediaError, OutputError
from ffs_anonymizer.fleet.parts import Cut, Join, Part
from ffs_anonymizer.fleet.plan import AUDIT, FleetTask
from ffs_anonymizer.jobs.chunks import Chunk, ChunkResult, DetectedBefore, refuse_others
from ffs_anonymizer.jobs.job import FileJob
from ffs_anonymizer.jobs.output import (
    disk_errors,
    give_folder_name,
    give_name,
    RECORD,
    record_of,
    replace_with,
    sync,
)
from ffs_anonymizer.jobs.record import described, read_record
from ffs_anonymizer.jobs.remote import RemotePath
from ffs_anonymizer.jobs.report import Report, Tally
from ffs_anonymizer.media.conversion import needing_pyav
from ffs_anonymizer.media.files import MediaJob, MediaPlan
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.pipeline import concurrency
from ffs_anonymizer.review import audit_job
from ffs_anonymizer.review.audit_job import AuditJob, LEFT
from ffs_anonymizer.rosbag2 import metadata
from ffs_anonymizer.settings.runtime import Settings

_SCRATCH = 'ffs_fleet_'
# Of a recording that is cut; with fewer, what it costs to share it is more than what it saves.
_FEWEST_FRAMES = 64


@dataclass(frozen=True)
class Done:
    """
    Say what became of a recording; plain data.

    :param error: why there is no output; empty: there is.
    :param kept: whether the output is that of an earlier run or of a worker that was lost.
    :param notes: what the user should know beside.
    :param audit: what a second look found, of the privacy record; None: nobody looked.
    """

    report: Report
    error: str = ''
    kept: bool = False
    notes: tuple[str, ...] = ()
    audit: Mapping[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        """Return 0 where all was done, 1 where not, 3 where something is left uncovered."""
        if self.error:
            return 1
        if self.audit is not None and (self.audit['findings'] or not self.audit['frames']):
            return LEFT
        return self.report.exit_code


class Worker:
    """
    Do one recording after the other, or parts of those that all workers share.

    :param settings: of all of them.
    :raises ModelError: a model is missing or unfit.
    """

    def __init__(self, settings: Settings) -> None:
        import cv2
        from ffs_anonymizer.allocator import keep_memory

        keep_memory()
        cv2.setNumThreads(cores())
        _sweep()
        self._networks = Networks(settings, concurrency=concurrency(settings))
        self._recipe = Recipe(self._networks, settings)

    def __call__(self, job: FleetTask | Part | Join, tries: int) -> Done | Cut | ChunkResult:
        """
        Do one job; whatever goes wrong with it is said in what is returned.

        :param tries: how often it was begun before, by workers that are lost.
        """
        started = time.monotonic()
        task = job if isinstance(job, FleetTask) else job.task
        try:
            if isinstance(job, Part):
                return _found_in(job.chunk, self._recipe)
            known = None
            if isinstance(job, Join):
                refuse_others(job.detectors, self._recipe)
                known = DetectedBefore(job.results)
            done = self._done(task, tries, known)
            if isinstance(done, Cut):
                return done
        except AnonymizerError as error:
            done = Done(Report(), error=str(error))
        except OSError as error:
            done = Done(Report(), error=f'{error.filename or task.name}: {error.strerror}')
        except ImportError as error:
            where = socket.gethostname()
            done = Done(Report(), error=f'{error}; install what is missing on {where}')
        except Exception as error:
            done = Done(
                Report(),
                error=f'a bug: please report {type(error).__name__}: {error} '
                f'(ffs_anonymizer {__version__})',
            )
        done.report.seconds = time.monotonic() - started
        return done

    def _done(self, task: FleetTask, tries: int, known: DetectedBefore | None) -> Done | Cut:
        """
        Do a recording, or say into which chunks it falls if it is to be shared.

        :param known: what was detected in its chunks already; None: it was not cut.
        """
        target = task.job.target
        if is_whole(task):
            if task.resumes or tries:
                return kept(task)
            raise OutputError(f'{target}: exists already; nothing is overwritten')
        with contextlib.ExitStack() as stack:
            source, notes = _source(task.job, stack)
            if task.is_shared and known is None and not isinstance(task.job.source, RemotePath):
                chunks = _chunks(task.job)
                if sum(chunk.frames for chunk in chunks) >= _FEWEST_FRAMES:
                    return Cut(tuple(chunks))
            made = stack.enter_context(_attempt(task, tries)) / target.name
            job = replace(task.job, source=source, target=made)
            report, warnings = self._run(job, known)
            if not report.written:
                raise OutputError('; '.join(report.undone) or f'{target}: nothing was written')
            audit = self._audited(task, source, made) if task.audits else None
            if is_whole(task) and (task.resumes or tries):
                # Of a worker that was lost, and has come to its end all the same.
                return kept(task)
            _commit(task, made, report)
        return Done(report, notes=(*notes, *warnings), audit=audit)

    def _run(self, job: FileJob, known: DetectedBefore | None) -> tuple[Report, list[str]]:
        """Return what became of a job, and warnings."""
        if isinstance(job, BagJob):
            from ffs_anonymizer.bag import conversion as bags

            plan = BagPlan(job)
            report = bags.run(job, plan=plan, detected=known, networks=self._networks)
            return report, plan.warnings()
        from ffs_anonymizer.media import conversion as media

        assert isinstance(job, MediaJob)
        warnings: list[str] = []
        report = media.run(job, detected=known, networks=self._networks, warn=warnings.append)
        return report, warnings

    def _audited(self, task: FleetTask, source: Path, made: Path) -> Mapping[str, Any] | None:
        """Look at an output once more; the page and the record are its own."""
        job = AuditJob(
            original=source,
            output=made,
            report=made.with_name(made.name + AUDIT),
            settings=task.job.settings,
            # Where they lie now is nobody's business.
            names=(str(task.job.source), str(task.job.target)),
        )
        audit_job.run(job, networks=self._networks)
        audit: Mapping[str, Any] | None = read_record(record_of(made))['audit']
        return audit


def _chunks(job: FileJob) -> Sequence[Chunk]:
    """
    Return into which chunks a recording falls; nothing: it has to be done in one go.

    :raises AnonymizerError: it is refused altogether.
    """
    if isinstance(job, BagJob):
        plan = BagPlan(job)
        with contextlib.suppress(BagError):
            pieces = bag_chunks.plan_chunks(job, plan=plan)
            check_first_images(plan)
            return pieces
        return ()
    assert isinstance(job, MediaJob)
    with contextlib.suppress(MediaError), needing_pyav():
        from ffs_anonymizer.media.chunks import plan_chunks

        (file,) = MediaPlan.of(job).files
        return plan_chunks(job, file) if file.is_video else ()
    return ()


def _found_in(chunk: Chunk, recipe: Recipe) -> ChunkResult:
    """Return what is detected in a chunk."""
    if isinstance(chunk, bag_chunks.BagChunk):
        return bag_chunks.run_chunk(chunk, recipe=recipe)
    from ffs_anonymizer.media.chunks import run_chunk, VideoChunk

    assert isinstance(chunk, VideoChunk)
    return run_chunk(chunk, recipe=recipe)


def is_whole(task: FleetTask) -> bool:
    """Return whether the output of a task is there, all of it."""
    target = task.job.target
    if isinstance(target, RemotePath) and isinstance(task.job, BagJob):
        return (target / metadata.FILE_NAME).is_file()
    return target.exists()


def kept(task: FleetTask) -> Done:
    """
    Return what became of a recording whose output is there, by its privacy record.

    :raises AnonymizerError: there is no record, or it is that of other settings or files.
    """
    target = task.job.target
    record = read_record(record_of(target))
    other = f'{target}: exists already, '
    if record['settings_sha256'] != task.job.settings.sha256:
        raise OutputError(f'{other}made with other settings; choose another output')
    if not _is_of(record, task.job.source):
        raise OutputError(
            f'{other}made of something else than {task.job.source} is now; choose another output'
        )
    wrong = _sizes(target) != {f['name']: f['size_bytes'] for f in record['output']['files']}
    if wrong and target.is_dir():
        raise OutputError(f'{other}and is not what its privacy record says; remove both')
    if task.audits and record['audit'] is None:
        raise OutputError(f'{other}but was not audited: `ffs_anonymizer audit` does that')
    report = Report(
        models=record['models'],
        streams={
            name: Tally(
                tally['action'],
                tally['items'],
                Counter(tally['regions']),
                Counter(tally['methods']),
                tally['failed'],
            )
            for name, tally in record['streams'].items()
        },
        written=1,
        undone=record['undone'],
        warnings=Counter(record['warnings']),
    )
    return Done(report, kept=True, audit=record['audit'])


def _is_of(record: Mapping[str, Any], source: Path) -> bool:
    """Return whether a record is that of a source: by sizes, and by hashes if it was touched."""
    listed = {file['name']: file for file in record['source']['files']}
    files = _sizes(source)
    if files != {name: file['size_bytes'] for name, file in listed.items()}:
        return False
    started = datetime.fromisoformat(record['started']).timestamp()
    root = source if source.is_dir() else source.parent
    if all(0 < (root / name).stat().st_mtime < started for name in files):
        return True
    found = {file['name']: file['sha256'] for file in described(source)['files']}
    return found == {name: file['sha256'] for name, file in listed.items()}


def _sizes(path: Path) -> dict[str, int]:
    if not path.is_dir():
        return {path.name: path.stat().st_size}
    return {
        file.relative_to(path).as_posix(): file.stat().st_size
        for file in path.rglob('*')
        if file.is_file()
    }


def _source(job: FileJob, stack: contextlib.ExitStack) -> tuple[Path, tuple[str, ...]]:
    """Return where to read a recording, and what is to be said of that."""
    source = job.source
    if not isinstance(source, RemotePath):
        return source, ()
    if isinstance(job, BagJob):
        if source.is_dir():
            told = metadata.load(source)
            reason = told.storage if told.storage != 'mcap' else ''
            if told.compression_mode == 'file':
                reason = 'compressed as a whole'
        else:
            reason = '' if source.suffix == '.mcap' else 'sqlite3'
        if not reason:
            return source, ()
    else:
        reason = 'an image or a video'
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_prefix())))
    note = f'copied to the machine that works on it, as it is {reason}; removed again'
    return source.fetch(folder), (note,)


@contextmanager
def _attempt(task: FleetTask, tries: int) -> Iterator[Path]:
    """Yield a folder of one attempt's own, which no other ever meets."""
    if isinstance(task.job.target, RemotePath):
        with tempfile.TemporaryDirectory(prefix=_prefix()) as name:
            yield Path(name)
        return
    folder = task.staging / f'{task.number}.{tries}.{os.getpid()}'
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _commit(task: FleetTask, made: Path, report: Report) -> None:
    """
    Give what was made its final names: the record first, the output last.

    So nothing has its final name without a record. A record alone is one of an attempt that died.
    """
    target = task.job.target
    if is_whole(task):
        raise OutputError(f'{target}: exists already, has come up meanwhile')
    for suffix in (RECORD, AUDIT):
        own, final = (path.with_name(path.name + suffix) for path in (made, target))
        if not own.is_file() and suffix == RECORD:
            raise OutputError(f'{target}: {"; ".join(report.undone)}')
        if not own.is_file():
            continue
        if isinstance(final, RemotePath):
            final.put(own.read_bytes())
            continue
        with disk_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
        replace_with(own, final)
    if isinstance(target, RemotePath):
        target.upload(made)
    else:
        with disk_errors(target):
            sync(made)
            (give_folder_name if made.is_dir() else give_name)(made, target)


def _prefix() -> str:
    return f'{_SCRATCH}{os.getpid()}_'


def _sweep() -> None:
    """Remove what workers of this machine left that were killed; it may show faces."""
    for folder in Path(tempfile.gettempdir()).glob(f'{_SCRATCH}*'):
        owner = folder.name[len(_SCRATCH) :].partition('_')[0]
        if owner.isdecimal() and not Path(f'/proc/{owner}').exists():
            shutil.rmtree(folder, ignore_errors=True)
