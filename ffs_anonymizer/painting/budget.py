"""Which generator a face may have when time is short: measured costs, largest faces first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# A face rises to a better level only where this share of the budget would do, so that it does not
# change its look with every small change of load.
CAUTION = 0.8
# How much one measured call weighs against all before it.
_NEWEST_WEIGHT = 0.1


@dataclass(frozen=True)
class Cost:
    """
    Say how long a generator takes on this device.

    :param call_ms: milliseconds of a call, whatever its size.
    :param face_ms: milliseconds of each face.
    """

    call_ms: float
    face_ms: float

    def of(self, faces: int) -> float:
        """Return the milliseconds that some faces take; none take none."""
        return self.call_ms + self.face_ms * faces if faces else 0.0

    def most(self, budget_ms: float) -> int:
        """Return how many faces fit a budget."""
        return max(int((budget_ms - self.call_ms) / max(self.face_ms, 1e-6)), 0)

    def corrected(self, faces: int, took_ms: float) -> Cost:
        """Return the cost moved a little towards what a call really took."""
        ratio = 1 + _NEWEST_WEIGHT * (took_ms / max(self.of(faces), 1e-6) - 1)
        return replace(self, call_ms=self.call_ms * ratio, face_ms=self.face_ms * ratio)

    @classmethod
    def fitted(cls, one_ms: float, several_ms: float, several: int) -> Cost:
        """Return the cost that explains a call with one face and a call with several."""
        face_ms = max((several_ms - one_ms) / (several - 1), one_ms / (4 * several))
        return cls(max(one_ms - face_ms, 0.0), face_ms)


def levels(
    sides_px: NDArray[np.float64],
    costs: Sequence[Cost],
    budget_ms: float,
    *,
    before: NDArray[np.int64],
) -> NDArray[np.int64]:
    """
    Return which generator each face of a frame gets: 0 is the best one, len(costs) means none.

    :param sides_px: (N,) longer side of each region.
    :param costs: of the generators, the best and slowest first; one or two.
    :param budget_ms: what the frame's faces may take together; 0 means any time.
    :param before: (N,) each face's level in the frame before; -1 where it had none.
    :returns: (N,) levels whose predicted cost fits the budget.
    """
    if budget_ms <= 0:
        return np.zeros(len(sides_px), np.int64)
    best = _affordable(sides_px, costs, budget_ms)
    cautious = np.maximum(_affordable(sides_px, costs, budget_ms * CAUTION), best)
    return np.where(before < 0, cautious, np.clip(before, best, cautious))


def _affordable(
    sides_px: NDArray[np.float64], costs: Sequence[Cost], budget_ms: float
) -> NDArray[np.int64]:
    n = len(sides_px)
    best, last = costs[0], costs[-1]
    by_size = np.argsort(-sides_px, kind='stable')
    result = np.full(n, len(costs), np.int64)
    for large in range(n, -1, -1):
        rest = n - large if len(costs) > 1 else 0
        if best.of(large) + (last.of(rest) if rest else 0.0) <= budget_ms:
            result[by_size[large : large + rest]] = 1
            result[by_size[:large]] = 0
            return result
    result[by_size[: last.most(budget_ms)]] = len(costs) - 1
    return result
