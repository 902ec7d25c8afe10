"""Whose turn it is: of cameras that wait, and of the frames of one that are worked on at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
import fnmatch
import threading

from ffs_anonymizer.errors import SettingsError

HIGHEST = 100


class Turns:
    """
    Give turns to cameras in proportion to their weights.

    A camera that had nothing for a while gets no turns back for that time.

    :param weights: of each camera, 1 or more.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = tuple(weights)
        # Turns taken over weight, and that of the last one who had it.
        self._served = [0.0] * len(self._weights)
        self._now = 0.0

    def take(self, waiting: Iterable[int]) -> int | None:
        """
        Return whose turn it is, and count it; None if nobody waits.

        :param waiting: indices of the cameras that have a frame.
        """
        index = self.first(waiting)
        if index is not None:
            self._now = max(self._served[index], self._now)
            self._served[index] = self._now + 1 / self._weights[index]
        return index

    def first(self, waiting: Iterable[int]) -> int | None:
        """Return whose turn it is, and do not count it; None if nobody waits."""
        starts = {index: max(self._served[index], self._now) for index in waiting}
        return min(starts, key=lambda one: (starts[one], one), default=None)


class Order:
    """Let what was begun side by side go on one by one, in the order in which it was begun."""

    def __init__(self) -> None:
        self._begun: deque[object] = deque()
        self._changed = threading.Condition()

    def begin(self, what: object) -> None:
        """Take a place in the order; what has one must come to its turn."""
        self._begun.append(what)

    @contextmanager
    def turn(self, what: object) -> Iterator[None]:
        """Wait until all that was begun before has had its turn, and let the next one follow."""
        with self._changed:
            self._changed.wait_for(lambda: self._begun[0] is what)
        try:
            yield
        finally:
            with self._changed:
                self._begun.popleft()
                self._changed.notify_all()


def weights(priorities: Iterable[str], topics: Iterable[str]) -> list[int]:
    """
    Return the weight of each topic; the first text that fits it counts, else it is 1.

    :param priorities: `<topic or glob> <weight>`.
    :raises SettingsError: a text cannot be read.
    """
    parsed = []
    for text in priorities:
        words = text.split()
        if len(words) != 2 or not words[1].isdecimal() or not 1 <= int(words[1]) <= HIGHEST:
            raise SettingsError(
                f'priorities: got {text!r}, expected `<topic or glob> <weight>` '
                f'with a whole weight from 1 to {HIGHEST}'
            )
        parsed.append((words[0], int(words[1])))
    return [
        next((weight for name, weight in parsed if fnmatch.fnmatchcase(topic, name)), 1)
        for topic in topics
    ]
