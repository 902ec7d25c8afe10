"""Widths that the levels of a generator may have, and what each choice of them costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
import math

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.evaluation.cost import measure
from ffs_anonymizer.training.generator.fold import fold
from ffs_anonymizer.training.generator.network import GeneratorArchitecture, GeneratorNetwork
import torch

Channels = tuple[int, ...]
STEP = 32


@dataclass(frozen=True)
class Table:
    """
    Hold the widths to choose from, one line a level, each in rising order.

    :param levels: from the top down.
    """

    levels: tuple[Channels, ...]

    def __len__(self) -> int:
        """Return how many networks there are to choose from."""
        return math.prod(map(len, self.levels))

    def __iter__(self) -> Iterator[Channels]:
        """Return all networks, one by one."""
        return product(*self.levels)

    @property
    def narrowest(self) -> Channels:
        """Return the narrowest network."""
        return tuple(widths[0] for widths in self.levels)

    @property
    def widest(self) -> Channels:
        """Return the widest network."""
        return tuple(widths[-1] for widths in self.levels)

    def drawn(self, number: Callable[[float, float], float]) -> Channels:
        """
        Return any network, each as likely.

        :param number: returns one from the first to below the second, all as likely.
        """
        return tuple(widths[int(number(0, len(widths)))] for widths in self.levels)


def make_table(text: str, most: Channels) -> Table:
    """
    Read a table of widths.

    :param text: widths with commas between, levels apart by spaces; empty: multiples of 32 from a
        quarter of the most to the most.
    :param most: widths of the teacher's levels.
    :raises SettingsError: it cannot be read, or has wider levels than the teacher.
    """
    if not text.strip():
        return Table(tuple(map(_usual, most)))
    levels = tuple(tuple(map(_width, level.split(','))) for level in text.split())
    fits = len(levels) == len(most) and all(
        min(level) > 0 and max(level) <= width for level, width in zip(levels, most, strict=True)
    )
    if not fits:
        raise SettingsError(
            f'widths: got {text!r}, expected some for each of {len(most)} levels, commas between, '
            f'levels apart by spaces, from 1 up to {to_text(most)}'
        )
    return Table(tuple(tuple(sorted({*level})) for level in levels))


def _usual(most: int) -> Channels:
    least = STEP * math.ceil(most / 4 / STEP)
    return (*range(least, most, STEP), most)


def _width(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def to_text(channels: Channels) -> str:
    """Return widths as the setting `channels` takes them."""
    return ','.join(map(str, channels))


@cache
def cost(architecture: GeneratorArchitecture, channels: Channels, size_px: int) -> tuple[int, int]:
    """
    Return the parameters of a folded generator, and its multiply-accumulates for one face.

    :param architecture: all but the widths.
    :param channels: the widths.
    :param size_px: S.
    """
    return measure(fold(outline(architecture, channels)), size_px)


def outline(architecture: GeneratorArchitecture, channels: Channels) -> GeneratorNetwork:
    """
    Return a generator without weights: shapes alone.

    :param architecture: all but the widths.
    :param channels: the widths.
    """
    with torch.device('meta'):
        return GeneratorNetwork(replace(architecture, channels=channels))
