"""What a fleet does next: whole recordings, and large ones in chunks that all workers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Union

from ffs_anonymizer.bag.plan import BagJob
from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.fleet.parts import Cut, Join, Part
from ffs_anonymizer.fleet.plan import FleetPlan, FleetTask, size_of
from ffs_anonymizer.fleet.worker import Done
from ffs_anonymizer.jobs.chunks import Chunk, ChunkResult, kept_results
from ffs_anonymizer.jobs.fleet import Backlog, Begun, Ended, Event, Lost, Waiting
from ffs_anonymizer.jobs.job import FileJob
from ffs_anonymizer.jobs.journal import Journal, open_journal
from ffs_anonymizer.jobs.remote import RemotePath
from ffs_anonymizer.jobs.report import Report
from ffs_anonymizer.media.files import kind_of, VIDEO_SUFFIXES

# Joining is what takes one worker longest, so it comes first, and what leads to it second.
_JOIN, _PART, _WHOLE = range(3)
# A recording is shared that is more than so many times what each worker would have to do. Sharing
# costs a twentieth, and an eighth, which joins the chunks, nobody shares: where no recording
# outlasts the others, they are done sooner whole.
_SHARE = 1.1


@dataclass(frozen=True)
class Looked:
    """
    Say how many images of a recording that is shared were looked at, of all that it has.

    :param worker: who looked last.
    """

    number: int
    worker: str
    looked: int
    frames: int


Happened = Union[Begun, Lost, 'Ended[Done]', Waiting, Looked]


@dataclass
class _Shared:
    """
    Hold a recording that is shared.

    :param journal: keeps what was found for a later run; None: nothing does.
    :param results: by number of the chunk.
    :param kept: how many of them an earlier run left.
    :param jobs: numbers in the backlog.
    :param workers: that looked.
    """

    chunks: Sequence[Chunk]
    journal: Journal | None = None
    results: dict[int, ChunkResult] = field(default_factory=dict)
    kept: int = 0
    jobs: list[int] = field(default_factory=list)
    workers: set[str] = field(default_factory=set)

    def looked(self, number: int, worker: str) -> Looked:
        known = sum(chunk.frames for chunk in self.chunks if chunk.number in self.results)
        return Looked(number, worker, known, sum(chunk.frames for chunk in self.chunks))


class Agenda:
    """
    Know what is to be done of each recording, within a `with` block.

    A worker that takes up a large recording says into which chunks it falls; they wait in the
    backlog as whatever else does, and so does their join, once all of them are there. Nobody
    waits while holding a worker.

    :param workers: of the fleet.
    :ivar backlog: of the jobs for them, a FleetTask, a Part or a Join each.
    """

    def __init__(self, plan: FleetPlan, workers: int) -> None:
        self.backlog: Backlog[FleetTask | Part | Join] = Backlog()
        self._tasks = plan.tasks
        # Numbers of recordings, by those of jobs.
        self._numbers: dict[int, int] = {}
        self._shared: dict[int, _Shared] = {}
        self._over: set[int] = set()
        sizes = {task.number: size_of(task.job.source) for task in plan.tasks}
        totals: Counter[type] = Counter()
        for task in plan.tasks:
            totals[type(task.job)] += sizes[task.number]
        for task in sorted(plan.tasks, key=lambda one: -sizes[one.number]):
            # Videos and bags have not the same pictures to a byte.
            share = _SHARE * totals[type(task.job)] / workers
            is_large = workers > 1 and sizes[task.number] > share
            is_shared = is_large and _has_many_pictures(task.job)
            self._add(replace(task, is_shared=is_shared), task.number, _WHOLE)
            self.backlog.grows |= is_shared

    def __enter__(self) -> Agenda:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what was found in chunks of recordings that are not done."""
        for shared in self._shared.values():
            if shared.journal is not None:
                shared.journal.close(stays=True)

    def take(self, event: Event[Done | Cut | ChunkResult]) -> Happened:
        """Return what happened to a recording, and add what is to be done next."""
        if isinstance(event, Waiting):
            return event
        number, worker = self._numbers[event.number], event.worker
        if not isinstance(event, Ended):
            if isinstance(event, Lost) and number in self._over:
                self.backlog.drop([event.number])
            return replace(event, number=number)
        result = event.result
        try:
            if isinstance(result, Cut):
                self._cut(number, result)
            elif isinstance(result, ChunkResult) and number not in self._over:
                self._keep(number, worker, result)
        except AnonymizerError as error:
            result = Done(Report(), error=str(error))
        shared = self._shared.get(number)
        if isinstance(result, (Cut, ChunkResult)) or (number in self._over and shared):
            assert shared is not None
            return shared.looked(number, worker)
        if shared is not None:
            result = self._end(number, shared, result)
        return Ended(number, worker, result, event.reason)

    def _add(self, job: FleetTask | Part | Join, number: int, rank: int) -> int:
        added = self.backlog.add(job, rank)
        self._numbers[added] = number
        return added

    def _cut(self, number: int, cut: Cut) -> None:
        """Have the chunks done that no earlier run has left."""
        task, shared = self._tasks[number], _Shared(cut.chunks)
        self._shared[number] = shared
        if not isinstance(task.staging, RemotePath):
            job_sha256 = cut.chunks[0].job_sha256
            journal = task.staging / f'{task.journals}_{job_sha256[:16]}'
            shared.journal = open_journal(journal, job_sha256)
            shared.results = kept_results(cut.chunks, shared.journal)
            shared.kept = len(shared.results)
        shared.jobs = [
            self._add(Part(task, chunk), number, _PART)
            for chunk in cut.chunks
            if chunk.number not in shared.results
        ]
        self._join(number, shared)

    def _keep(self, number: int, worker: str, result: ChunkResult) -> None:
        """Take what was found in a chunk."""
        shared = self._shared[number]
        if shared.journal is not None:
            shared.journal.keep(shared.chunks[result.number].name, result.packed())
        shared.results[result.number] = result
        shared.workers.add(worker)
        self._join(number, shared)

    def _join(self, number: int, shared: _Shared) -> None:
        """Have the recording made once all that it needs is there."""
        if len(shared.results) == len(shared.chunks):
            results = tuple(shared.results[chunk.number] for chunk in shared.chunks)
            detectors = shared.chunks[0].detectors
            self._add(Join(self._tasks[number], results, detectors), number, _JOIN)

    def _end(self, number: int, shared: _Shared, done: Done | None) -> Done | None:
        """Leave a recording, done or not, and say that it was shared."""
        self._over.add(number)
        self.backlog.drop(shared.jobs)
        if shared.journal is not None:
            shared.journal.close(stays=done is None or bool(done.error))
            shared.journal = None
        if done is None or done.error:
            return done
        shared.results = {}
        earlier = f', {shared.kept} of them by an earlier run' if shared.kept else ''
        note = f'looked at in {len(shared.chunks)} chunks by {len(shared.workers)} workers'
        return replace(done, notes=(*done.notes, f'{note}{earlier}'))


def _has_many_pictures(job: FileJob) -> bool:
    """Return whether a recording may fall into chunks: all but a photo."""
    return isinstance(job, BagJob) or kind_of(job.source)[0] in VIDEO_SUFFIXES
