"""Generators that a channel search judged: their table on disk, the best of them, who is next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
import csv
from dataclasses import dataclass
from pathlib import Path
import random

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.training.generator.widths import Channels, Table, to_text

COLUMNS = ('channels', 'gmac', 'parameters', 'distance', 'images')
TRIES = 1000
MUTATED = 0.2


@dataclass(frozen=True)
class Candidate:
    """
    Say what one choice of widths costs, and how well it paints.

    :param macs: multiply-accumulates for one face.
    :param parameters: after folding.
    :param distance: mean difference from the teacher's painting in the hole, of 255 levels.
    """

    channels: Channels
    macs: int
    parameters: int
    distance: float

    def as_line(self, images: int) -> tuple[str, ...]:
        """
        Return its line of a table.

        :param images: that the shared weights had seen.
        """
        gmac = f'{self.macs / 1e9:.9f}'
        told = str(self.parameters), f'{self.distance:.4f}', str(images)
        return to_text(self.channels), gmac, *told


def front(found: Collection[Candidate]) -> list[Candidate]:
    """Return those that none is as cheap and nearer than, the cheapest first."""
    best: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.macs, c.distance)):
        if not best or candidate.distance < best[-1].distance:
            best.append(candidate)
    return best


def to_markdown(found: Collection[Candidate]) -> str:
    """Return a table in Markdown."""
    lines = ['| channels | GMAC a face | parameters | distance |', '|---|---:|---:|---:|']
    lines += [
        f'| {to_text(c.channels)} | {c.macs / 1e9:.3f} | {c.parameters / 1e6:.2f} M '
        f'| {c.distance:.2f} |'
        for c in found
    ]
    return '\n'.join(lines) + '\n'


def read_candidates(path: Path, images: int) -> list[Candidate]:
    """
    Read those of a table that were judged with the shared weights of now.

    :param path: a CSV file with COLUMNS; where it is missing, none were.
    :param images: that the shared weights have seen.
    :raises ModelError: it is no such table.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline='', encoding='utf-8') as file:
            return [
                _candidate(row) for row in csv.DictReader(file) if row['images'] == str(images)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f'{path}: cannot be read as a table of candidates: {error}') from error


def _candidate(row: dict[str, str]) -> Candidate:
    channels = tuple(map(int, row['channels'].split(',')))
    macs = round(float(row['gmac']) * 1e9)
    return Candidate(channels, macs, int(row['parameters']), float(row['distance']))


def write_candidates(path: Path, found: Iterator[Candidate], images: int) -> list[Candidate]:
    """
    Write a table line by line, each as soon as it is known, and return what it holds.

    :param path: a CSV file.
    :param found: may take its time.
    :param images: that the shared weights have seen.
    """
    written = []
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(COLUMNS)
        for candidate in found:
            writer.writerow(candidate.as_line(images))
            file.flush()
            written.append(candidate)
    return written


def upcoming(
    table: Table,
    found: Collection[Candidate],
    is_affordable: Callable[[Channels], bool],
    most: int,
) -> Channels | None:
    """
    Return the network to judge next, None where there is none left: all of a small table.

    Of a large one the narrowest, then those that can be afforded: a quarter drawn by chance, the
    others changed and crossed from the best quarter so far.

    :param table: of the widths.
    :param found: judged already.
    :param is_affordable: tells whether a network is within the budget.
    :param most: how many to judge in all.
    """
    known = {candidate.channels for candidate in found}
    if len(table) <= most:
        return next((channels for channels in table if channels not in known), None)
    if table.narrowest not in known:
        # So that there is something to choose, however small the budget.
        return table.narrowest
    if len(found) >= most:
        return None
    chance = random.Random(len(found))
    kept = sorted((c for c in found if is_affordable(c.channels)), key=lambda c: c.distance)
    parents = [candidate.channels for candidate in kept[: len(kept) // 4]]
    for _ in range(TRIES):
        drawn = table.drawn(chance.uniform)
        if len(found) >= most // 4 and len(parents) > 1:
            first, second = chance.sample(parents, 2)
            drawn = tuple(
                new if chance.random() < MUTATED else chance.choice(pair)
                for new, *pair in zip(drawn, first, second, strict=True)
            )
        if drawn not in known and is_affordable(drawn):
            return drawn
    return None
