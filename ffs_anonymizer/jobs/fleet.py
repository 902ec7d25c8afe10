"""Many jobs on many machines, by Ray: who is idle gets the next, who dies leaves it to others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
import contextlib
from dataclasses import dataclass
from functools import partial
import heapq
import os
import signal
import socket
from typing import Any, Generic, TypeVar, Union

from ffs_anonymizer import __version__
from ffs_anonymizer.cores import cores
from ffs_anonymizer.errors import AnonymizerError

_Job = TypeVar('_Job')
_Result = TypeVar('_Result')
# Takes a job, and how often it was begun before.
Work = Callable[[_Job, int], _Result]

_TICK_S = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Results are small; what Ray would take by itself is a third of the memory.
_ATTEMPTS = 3
_STORE_BYTES = 80 << 20


@dataclass(frozen=True)
class Crew:
    """
    Say who is to work.

    :param address: local: a Ray of its own on this machine; auto: the one that runs here; else
        that of a cluster, as ray://host:10001.
    :param workers: processes; 0: one for every two cores.
    :param cpus: of each; 0: the cores divided by the workers.
    :param gpus: of each, may be a share.
    :param retries: how often a job is begun again whose worker died.
    """

    address: str = 'local'
    workers: int = 0
    cpus: float = 0.0
    gpus: float = 0.0
    retries: int = 2


@dataclass(frozen=True)
class Begun:
    """Say that a worker took a job up."""

    number: int
    worker: str


@dataclass(frozen=True)
class Lost:
    """Say that the worker of a job died; the job is done by another."""

    number: int
    worker: str
    reason: str


@dataclass(frozen=True)
class Ended(Generic[_Result]):
    """Hold what came of a job; without a result, why there is none."""

    number: int
    worker: str
    result: _Result | None
    reason: str = ''


@dataclass(frozen=True)
class Waiting:
    """Say that nothing has happened for a moment, and how many workers are there."""

    workers: int


Event = Union[Begun, Lost, Ended[_Result], Waiting]


class Backlog(Generic[_Job]):
    """
    Hold the jobs that wait, the most urgent first; more may come while others are done.

    :param jobs: that wait from the beginning, equally urgent, the first ones first.
    :ivar grows: whether more will come, so that all workers are worth their beginning.
    """

    def __init__(self, jobs: Iterable[_Job] = ()) -> None:
        self.grows = False
        self._jobs: list[_Job | None] = []
        self._waiting: list[tuple[int, int]] = []
        for job in jobs:
            self.add(job)

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def add(self, job: _Job, rank: int = 0) -> int:
        """
        Add a job, and return its number.

        :param rank: those of lower ones are done first.
        """
        self._jobs.append(job)
        heapq.heappush(self._waiting, (rank, len(self._jobs) - 1))
        return len(self._jobs) - 1

    def drop(self, numbers: Iterable[int]) -> None:
        """Leave those jobs undone that still wait."""
        dropped = {*numbers}
        self._waiting = [each for each in self._waiting if each[1] not in dropped]
        heapq.heapify(self._waiting)

    def take(self) -> tuple[int, int, _Job]:
        """Return rank, number and job of what is to be done next."""
        rank, number = heapq.heappop(self._waiting)
        job = self._jobs[number]
        assert job is not None
        return rank, number, job

    def put_back(self, rank: int, number: int) -> None:
        """Have a job wait again, before all that are not more urgent."""
        heapq.heappush(self._waiting, (rank, number))

    def forget(self, number: int) -> None:
        """Hold no longer what a job is that has ended."""
        self._jobs[number] = None


class Fleet(Generic[_Job, _Result]):
    """
    Hold workers on the machines of a Ray cluster, within a `with` block.

    :param make_work: is called once in each worker; what it returns does the jobs. Both it and
        the jobs are pickled.
    :raises AnonymizerError: there is no Ray, no such cluster, or no worker can begin.
    """

    def __init__(self, crew: Crew, make_work: Callable[[], Work[_Job, _Result]]) -> None:
        self._crew = crew
        self._make_work = make_work
        self._ray: Any = None
        self._actors: set[Any] = set()
        self._names: dict[Any, str] = {}

    def __enter__(self) -> Fleet[_Job, _Result]:
        """Join the cluster."""
        self._ray = _imported()
        self._join()
        total = self._ray.cluster_resources().get('CPU', 0.0)
        self.workers = self._crew.workers or max(1, int(total) // 2)
        # A worker lies on one machine, so it never gets more cores than the largest has.
        alive = [node['Resources'].get('CPU', 0.0) for node in self._ray.nodes() if node['Alive']]
        most = max([1.0, *alive])
        share = min(max(total, 1.0) / self.workers, most)
        # Whole ones above one, as Ray wants them.
        self.cpus = self._crew.cpus or (float(int(share)) if share >= 1 else share)
        if self.cpus > most:
            self._ray.shutdown()
            raise AnonymizerError(
                f'got {self.cpus:g} cores for each worker, expected at most the {most:g} of the '
                'largest machine'
            )
        return self

    def __exit__(self, *_: object) -> None:
        """End all workers and leave the cluster."""
        for actor in self._actors:
            self._kill(actor)
        self._ray.shutdown()

    def map(  # noqa: A003
        self, jobs: Backlog[_Job]
    ) -> Generator[Event[_Result], None, None]:
        """
        Yield what happens until an end of each job was yielded.

        :param jobs: more may be added between what is yielded.
        :raises AnonymizerError: no worker can begin.
        """
        tries: Counter[int] = Counter()
        starting: dict[Any, Any] = {}
        running: dict[Any, tuple[Any, int, int]] = {}
        idle: list[Any] = []
        stillborn = 0
        while jobs or running:
            wanted = self.workers if jobs.grows else min(self.workers, len(jobs) + len(running))
            for _ in range(wanted - len(self._actors)):
                self._begin(starting)
            while idle and jobs:
                actor = idle.pop()
                rank, number, job = jobs.take()
                running[actor.do.remote(job, tries[number])] = actor, rank, number
                tries[number] += 1
                yield Begun(number, self._names[actor])
            refs = [*starting, *running]
            done, _ = self._ray.wait(refs, num_returns=1, timeout=_TICK_S)
            if not done:
                yield Waiting(len(idle) + len(running))
                continue
            ref = done[0]
            if ref in starting:
                actor = starting.pop(ref)
                try:
                    name, problem = self._ray.get(ref)
                except self._ray.exceptions.RayError as error:
                    stillborn += 1
                    if stillborn > self._crew.retries:
                        raise AnonymizerError(f'no worker can begin: {_cause(error)}') from error
                    self._discard(actor)
                    continue
                if problem:
                    raise AnonymizerError(f'{name}: {problem}')
                stillborn = 0
                self._names[actor] = name
                idle.append(actor)
                continue
            actor, rank, number = running.pop(ref)
            try:
                result = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                idle.append(actor)
                jobs.forget(number)
                # What cannot be unpickled there lacks a library.
                lacks = isinstance(error.cause, self._ray.exceptions.RaySystemError)
                reason = f'{"cannot begin it" if lacks else "a bug"}: {_cause(error)}'
                yield Ended(number, self._names[actor], None, reason)
            except self._ray.exceptions.RayError as error:
                name = self._names[actor]
                self._discard(actor)
                if tries[number] > self._crew.retries:
                    reason = f'its workers died, {tries[number]} of them: {_line(error)}'
                    jobs.forget(number)
                    yield Ended(number, name, None, reason)
                else:
                    jobs.put_back(rank, number)
                    yield Lost(number, name, _line(error))
            else:
                idle.append(actor)
                jobs.forget(number)
                yield Ended(number, self._names[actor], result)

    def _join(self) -> None:
        # What was anonymized where is nobody's business.
        os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
        is_local = self._crew.address == 'local'
        options: dict[str, Any] = {}
        if is_local:
            options = {
                'num_cpus': cores(),
                'include_dashboard': False,
                'object_store_memory': _STORE_BYTES,
            }
        ours = {number: signal.getsignal(number) for number in _SIGNALS}
        for attempt in range(_ATTEMPTS):
            try:
                self._ray.init(
                    address=self._crew.address,
                    log_to_driver=False,
                    logging_level='error',
                    **options,
                )
                break
            # Whatever it is, its own classes are bare.
            except Exception as error:
                self._leave_client()
                # The server that a cluster starts for each client may die as it begins.
                if isinstance(error, ConnectionAbortedError) and attempt + 1 < _ATTEMPTS:
                    continue
                raise AnonymizerError(
                    f'--address {self._crew.address}: cannot join a Ray cluster: {_line(error)}'
                ) from error
        for number, handler in ours.items():
            # Ray sets its own.
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)

    def _leave_client(self) -> None:
        """End the mode in which Ray is left by a client that could not begin."""
        if self._crew.address.startswith('ray://'):
            from ray.util.client import ray as client

            client.disconnect()

    def _begin(self, starting: dict[Any, Any]) -> None:
        actor = (
            self._ray.remote(_Actor)
            .options(num_cpus=self.cpus, num_gpus=self._crew.gpus, max_restarts=0)
            .remote()
        )
        self._actors.add(actor)
        starting[actor.begin.remote(__version__, self._make_work)] = actor

    def _discard(self, actor: Any) -> None:
        # One that cannot be reached may live on; it must not work beside its successor.
        self._kill(actor)
        self._actors.discard(actor)

    def _kill(self, actor: Any) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(actor, no_restart=True)


class _Actor:
    """Work in a process of its own, somewhere."""

    def begin(self, version: str, make_work: Callable[[], Work[Any, Any]]) -> tuple[str, str]:
        """Return who this is, and why it cannot work."""
        name = f'{socket.gethostname()}:{os.getpid()}'
        if version != __version__:
            return name, f'got ffs_anonymizer {__version__} here, expected {version}; install it'
        try:
            self._work = make_work()
        except (AnonymizerError, ImportError, OSError) as error:
            return name, str(error)
        return name, ''

    def do(self, job: Any, tries: int) -> Any:
        """Return what comes of a job."""
        return self._work(job, tries)


def map_in_fleet(
    work: Callable[[_Job], _Result], given: Sequence[_Job], *, crew: Crew
) -> Generator[tuple[int, _Result], None, None]:
    """
    Yield what work makes of each thing, with its number, as it comes.

    Closing the iterator, or an error, ends the workers.

    :param work: can be pickled, as what it is given and what it makes.
    :raises AnonymizerError: of the work; or nobody can do it.
    """
    fleet: Fleet[_Job, tuple[Any, AnonymizerError | None]] = Fleet(crew, partial(_telling, work))
    with fleet, contextlib.closing(fleet.map(Backlog(given))) as events:
        for event in events:
            if not isinstance(event, Ended):
                continue
            if event.result is None:
                raise AnonymizerError(event.reason)
            made, error = event.result
            if error is not None:
                raise error
            yield event.number, made


def _telling(work: Callable[[Any], Any]) -> Work[Any, Any]:
    return _Told(work)


@dataclass(frozen=True)
class _Told:
    """Hand an error on as a result; one that comes through Ray is another's."""

    work: Callable[[Any], Any]

    def __call__(self, job: Any, tries: int) -> tuple[Any, AnonymizerError | None]:
        try:
            return self.work(job), None
        except AnonymizerError as error:
            return None, error


def _imported() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise AnonymizerError(
            f"fleet needs Ray: {error}; pip install 'ffs_anonymizer[fleet]'"
        ) from error
    return ray


def _cause(error: object) -> str:
    """Return what went wrong in a worker; Ray's own words are where, and how it came there."""
    return _line(getattr(error, 'cause', None) or error)


def _line(error: object) -> str:
    """Return the first line of what Ray says; the rest are its own logs."""
    words = str(error).strip().splitlines()
    return words[0].strip() if words else type(error).__name__
