"""What became of a job: counts by stream, warnings, what could not be done, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
import sys
from typing import Any

from ffs_anonymizer.pipeline import Outcome
from ffs_anonymizer.regions.detections import CLASSES, Regions
from ffs_anonymizer.terminal import printable, say, warn

_MOST_LINES = 200
# What stands for the methods of frames that an earlier run made.
KEPT = 'as before'


@dataclass
class Tally:
    """
    Count what became of one stream: a topic, an image or a video.

    :param action: what was done with it, for the user.
    :param items: messages or frames.
    :param regions: what was replaced, by class.
    :param methods: the same, by what took its place.
    :param failed: frames that could not be anonymized.
    """

    action: str = ''
    items: int = 0
    regions: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    failed: int = 0


@dataclass
class Report:
    """
    Hold what became of a job; plain data, as the job is.

    :param models: what ran where, by role.
    :param streams: by name.
    :param written: number of outputs.
    :param frames: number of images that went through the recipe.
    :param undone: what could not be done, as words; not empty means exit code 1.
    :param warnings: what did not go as configured, with the number of frames; faces are covered
        all the same.
    """

    models: dict[str, str] = field(default_factory=dict)
    streams: dict[str, Tally] = field(default_factory=dict)
    written: int = 0
    frames: int = 0
    undone: list[str] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it in what JSON has."""
        return {**vars(self), 'streams': {name: vars(t) for name, t in self.streams.items()}}

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> Report:
        """Return the report that `as_dict` told of."""
        report = cls(**values)
        report.warnings = Counter(report.warnings)
        report.streams = {name: Tally(**tally) for name, tally in values['streams'].items()}
        for tally in report.streams.values():
            tally.regions, tally.methods = Counter(tally.regions), Counter(tally.methods)
        return report

    @property
    def exit_code(self) -> int:
        """Return 0 where all was done, else 1."""
        return 1 if self.undone else 0

    @property
    def regions(self) -> Counter[str]:
        """Return the number of regions that were replaced, by class."""
        return sum((tally.regions for tally in self.streams.values()), Counter())

    def add(self, other: Report) -> None:
        """Enter what became of a part of the job."""
        self.models.update(other.models)
        self.streams.update(other.streams)
        self.frames += other.frames
        self.undone += other.undone
        self.warnings.update(other.warnings)

    def stream(self, name: str, action: str = '') -> Tally:
        """Return the tally of a stream, a new one if there is none."""
        return self.streams.setdefault(name, Tally(action))

    def count(self, name: str, outcome: Outcome[Any]) -> None:
        """Count a frame of a stream."""
        tally = self.stream(name)
        tally.items += 1
        self.frames += 1
        if outcome.error is not None:
            tally.failed += 1
            return
        tally.regions.update(CLASSES[index] for index in outcome.regions.classes.tolist())
        if outcome.replaced is not None:
            tally.methods.update(outcome.replaced.counts)
            self.warnings.update(outcome.replaced.warnings)

    def count_kept(self, name: str, regions: Regions) -> None:
        """Count a frame of a stream that was taken over from an earlier output."""
        tally = self.stream(name)
        tally.items += 1
        self.frames += 1
        tally.regions.update(CLASSES[index] for index in regions.classes.tolist())
        tally.methods[KEPT] += len(regions)

    def tell(self) -> None:
        """Print warnings, and what could not be done, on standard error."""
        for warning, count in self.warnings.most_common(_MOST_LINES):
            warn(f'{count} frames: {warning}')
        if not self.undone:
            return
        say('error: not everything could be done:', file=sys.stderr)
        for line in self.undone[:_MOST_LINES]:
            say(f'  {printable(line)}', file=sys.stderr)
        if len(self.undone) > _MOST_LINES:
            say(f'  and {len(self.undone) - _MOST_LINES} more', file=sys.stderr)


def counted(counts: Counter[str]) -> str:
    """Return counts as words, nothing where there are none."""
    return ', '.join(f'{count} {word}' for word, count in counts.items() if count)


def progress_bar(*, total: int, shown: bool, **options: Any) -> Any:
    """
    Return a bar on standard error.

    :param shown: False: never; True: where standard error is a terminal.
    :param options: of tqdm.
    """
    from tqdm import tqdm

    return tqdm(
        total=total,
        file=sys.stderr,
        dynamic_ncols=True,
        # Without a terminal, None shows nothing.
        disable=None if shown else True,
        **options,
    )
