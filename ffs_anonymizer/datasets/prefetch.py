"""Batches made a few ahead in a thread, where they are made on the CPU one by one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar('T')


def batches_ahead(draw: Callable[[int], T], steps: range) -> Generator[T, None, None]:
    """
    Yield what is drawn for each step, made a few ahead in a thread.

    :param draw: step to batch.
    :param steps: which steps.
    """
    made: Queue[T | BaseException] = Queue(maxsize=4)
    stopped = Event()

    def put(item: T | BaseException) -> None:
        while not stopped.is_set():
            with suppress(Full):
                made.put(item, timeout=0.2)
                return

    def make() -> None:
        try:
            for step in steps:
                if stopped.is_set():
                    return
                put(draw(step))
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
