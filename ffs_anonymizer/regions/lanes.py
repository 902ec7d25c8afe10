"""Pieces of one frame's work that do not need each other, done in some threads at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import queue
import threading
from typing import TypeVar

_Result = TypeVar('_Result')


def in_lanes(works: Sequence[Callable[[], _Result]], lanes: int) -> list[_Result]:
    """
    Do all pieces, the first ones first, and return their results in their order.

    The threads beside the caller's end with the call; one that hangs keeps no process alive.

    :param lanes: how many pieces are done at once.
    :raises Exception: what the first of the pieces raises that fail.
    """
    if min(lanes, len(works)) < 2:
        return [work() for work in works]
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(works)):
        waiting.put(number)
    results: dict[int, _Result] = {}
    errors: dict[int, Exception] = {}

    def work_off() -> None:
        while not errors:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results[number] = works[number]()
            except Exception as error:  # handed to the caller, who raises it
                errors[number] = error

    others = [
        threading.Thread(target=work_off, name='lane', daemon=True)
        for _ in range(min(lanes, len(works)) - 1)
    ]
    for thread in others:
        thread.start()
    work_off()
    for thread in others:
        thread.join()
    for number in sorted(errors):
        raise errors[number]
    return [results[number] for number in range(len(works))]
