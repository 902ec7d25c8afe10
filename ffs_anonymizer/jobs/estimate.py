"""What a job would amount to: frames, hours and gigabytes, from a sample of a few seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ffs_anonymizer.errors import AnonymizerError

SAMPLE_S = 3.0
_Item = TypeVar('_Item')
# What is copied, read back and hashed in a second, besides the pictures.
COPIED_BYTES_PER_S = 200e6


@dataclass(frozen=True)
class Estimate:
    """
    Hold what a job would amount to here.

    :param frames: that go through the recipe.
    :param seconds: that it would take.
    :param size_bytes: of the output.
    :param sampled: frames that this was measured with.
    """

    frames: int
    seconds: float
    size_bytes: float
    sampled: int

    def __add__(self, other: Estimate) -> Estimate:
        """Return what both amount to, one after the other."""
        return Estimate(
            self.frames + other.frames,
            self.seconds + other.seconds,
            self.size_bytes + other.size_bytes,
            self.sampled + other.sampled,
        )

    def words(self) -> str:
        """Return it for the user."""
        hours = self.seconds / 3600
        lasts = f'{hours:.1f} hours' if hours >= 1 else f'{self.seconds / 60:.1f} minutes'
        return (
            f'estimate: {self.frames} images, about {lasts} on this machine alone as it is now, '
            f'about {self.size_bytes / 1e9:.3g} GB; from a sample of {self.sampled} images'
        )


def estimate_words(estimate: Callable[[], Estimate]) -> str:
    """Return an estimate for the user, or why there is none."""
    try:
        return estimate().words()
    except AnonymizerError as error:
        return f'no estimate: {error}'


def seconds_a_frame(times: Sequence[float]) -> float:
    """
    Return how long a frame takes.

    :param times: of each that came, by a monotonic clock. The first ones come while threads still
        fill, so what was before them does not count.
    """
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0


def spread(items: Sequence[_Item], most: int) -> list[_Item]:
    """Return so many of the items at most, in places that lie evenly over all."""
    step = max(1, len(items) / most)
    return [items[int((place + 0.5) * step)] for place in range(min(most, len(items)))]
