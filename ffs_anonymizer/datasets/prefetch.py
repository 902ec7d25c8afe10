"""Batches made a few ahead on the CPU: in a thread, or in processes that share memory."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
import mmap
import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import Full, Queue
import signal
from threading import Event, Thread
from typing import Any, TypeVar

import cv2
from ffs_anonymizer.errors import MediaError
import numpy as np
from numpy.typing import NDArray

T = TypeVar('T')
Draw = Callable[[int, NDArray[np.uint8]], T]
Batches = Generator[tuple[NDArray[np.uint8], T], None, None]
# Batches that each worker may be ahead.
SLOTS = 2


def batches_ahead(draw: Draw[T], steps: range, shape: tuple[int, ...]) -> Batches[T]:
    """
    Yield images and what is told of them for each step, made a few ahead in a thread.

    :param draw: step, and the images to fill, to what is told of them.
    :param steps: which steps.
    :param shape: of the images of a step.
    """
    made: Queue[tuple[NDArray[np.uint8], T] | BaseException] = Queue(maxsize=4)
    stopped = Event()

    def put(item: tuple[NDArray[np.uint8], T] | BaseException) -> None:
        while not stopped.is_set():
            with suppress(Full):
                made.put(item, timeout=0.2)
                return

    def make() -> None:
        try:
            for step in steps:
                if stopped.is_set():
                    return
                images = np.empty(shape, np.uint8)
                put((images, draw(step, images)))
        except BaseException as error:
            put(error)

    thread = Thread(target=make, daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def batches_of_workers(
    draw: Draw[T], steps: range, shape: tuple[int, ...], workers: int
) -> Batches[T]:
    """
    Yield images and what is told of them for each step, drawn by processes in turns.

    They start at once, so call it before anything uses a GPU. Images lie in memory that is shared
    without /dev/shm, which containers make small; they are valid until the next are asked for.

    :param draw: step, and the images to fill, to what is told of them; what it returns is pickled.
    :param steps: which steps.
    :param shape: of the images of a step.
    :param workers: how many processes.
    :raises MediaError: a process has died, as where memory runs out.
    """
    length = int(np.prod(shape))
    shared = mmap.mmap(-1, workers * SLOTS * length)
    images = np.frombuffer(shared, np.uint8).reshape(workers, SLOTS, *shape)
    fork = multiprocessing.get_context('fork')
    started: list[tuple[BaseProcess, Connection]] = []
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a pool of threads would not live on in a fork
    try:
        for k in range(workers):
            ours, theirs = fork.Pipe()
            inherited = [ours, *(pipe for _, pipe in started)]
            job = (draw, steps[k::workers], images[k], theirs, inherited)
            process = fork.Process(target=work, args=job, daemon=True)
            process.start()
            theirs.close()
            started.append((process, ours))
    finally:
        cv2.setNumThreads(threads)
    return in_turns(started, steps, images)


def work(
    draw: Draw[T],
    steps: range,
    images: NDArray[np.uint8],
    pipe: Connection,
    inherited: list[Connection],
) -> None:
    """
    Draw the batches of one worker until it is done or nobody listens any more.

    :param draw: as for batches_of_workers().
    :param steps: this worker's.
    :param images: (SLOTS, ...) its part of the memory.
    :param pipe: takes what is told of each batch, and brings word of each that is used up.
    :param inherited: ends of pipes that would hide from a worker that nobody listens any more.
    """
    for end in inherited:
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked for the batches decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(EOFError, OSError):
        for n, step in enumerate(steps):
            if n >= SLOTS:
                pipe.recv()
            try:
                told: T | Exception = draw(step, images[n % SLOTS])
            except Exception as error:
                told = error
            pipe.send(told)


def in_turns(
    started: list[tuple[BaseProcess, Connection]], steps: range, images: NDArray[np.uint8]
) -> Batches[Any]:
    """
    Yield the batches of workers in the order of the steps; end them afterwards.

    :param started: the workers and their pipes.
    :param steps: which steps.
    :param images: (workers, SLOTS, ...).
    """
    try:
        for n in range(len(steps)):
            turn, k = divmod(n, len(started))
            process, pipe = started[k]
            try:
                told = pipe.recv()
            except (EOFError, OSError) as error:
                process.join(5)
                raise MediaError(
                    f'a process that draws scenes ended with exit code {process.exitcode}; is '
                    'there memory enough for so many workers?'
                ) from error
            if isinstance(told, Exception):
                raise told
            yield images[k, turn % SLOTS], told
            with suppress(OSError):
                pipe.send(None)
    finally:
        for process, pipe in started:
            process.terminate()
            pipe.close()
        for process, _ in started:
            process.join()
