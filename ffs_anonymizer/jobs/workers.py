"""Work done by processes that end with their parent, and whose death is noticed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
import contextlib
import multiprocessing
from multiprocessing import connection
from multiprocessing.connection import Connection
import os
import signal
import threading
from typing import Any, TypeVar

from ffs_anonymizer.errors import AnonymizerError, OutputError

_Given = TypeVar('_Given')
_Made = TypeVar('_Made')
# How often one piece of work may take its process with it.
MOST_DEATHS = 2
# Until a process whose pipe has closed is there no more.
_PATIENCE_S = 2.0


def map_in_processes(
    work: Callable[[_Given], _Made], given: Sequence[_Given], *, workers: int
) -> Generator[tuple[int, _Made], None, None]:
    """
    Yield what work makes of each thing, with its number, as it comes.

    Closing the iterator, or an error, ends the processes at once; they end as well where this one
    is killed. A process that dies is replaced, and its work done again.

    :param work: can be pickled, as what it is given and what it makes.
    :param workers: number of processes.
    :raises AnonymizerError: of the work; or a process died again and again.
    """
    todo = deque(range(len(given)))
    deaths = [0] * len(given)
    pool = [_Worker(work) for _ in range(min(workers, len(given)))]
    try:
        while todo or any(worker.number is not None for worker in pool):
            for worker in pool:
                if worker.number is None and todo:
                    worker.number = todo.popleft()
                    worker.send(given[worker.number])
            busy = {worker.pipe: worker for worker in pool if worker.number is not None}
            for pipe in connection.wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]  # only pipes were waited for
                number, worker.number = worker.number, None
                assert number is not None
                try:
                    made, error = worker.pipe.recv()
                except (EOFError, OSError):
                    deaths[number] += 1
                    code = worker.stop(_PATIENCE_S)
                    if deaths[number] > MOST_DEATHS:
                        raise OutputError(
                            f'a process ended with {code} {deaths[number]} times at the same '
                            'work: out of memory? try fewer workers'
                        ) from None
                    todo.appendleft(number)
                    pool[pool.index(worker)] = _Worker(work)
                    continue
                if error is not None:
                    raise error
                yield number, made
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """
    Hold a process.

    :ivar number: of the work that it is busy with.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        # Forked processes would inherit threads and open networks.
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.number: int | None = None
        self._process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, given: object) -> None:
        # A dead process is noticed where its answer is waited for.
        with contextlib.suppress(OSError):
            self.pipe.send(given)

    def stop(self, patience_s: float = 0.0) -> int | None:
        """Return the exit code of the process, which is killed where it does not end by itself."""
        self._process.join(patience_s)
        self._process.kill()
        self._process.join()
        self.pipe.close()
        return self._process.exitcode


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Work until nothing more comes, in a process of its own."""
    # The parent tells when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            given = pipe.recv()
        except EOFError:
            return
        try:
            answer: tuple[Any, Exception | None] = work(given), None
        except Exception as error:
            answer = None, AnonymizerError.of(error)
        with contextlib.suppress(BrokenPipeError):
            pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
