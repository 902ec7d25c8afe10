"""Whose turn it is when several cameras wait: by weight, and never at another's cost for long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import fnmatch

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
