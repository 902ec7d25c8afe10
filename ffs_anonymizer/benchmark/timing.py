"""Runs that take turns, so that whatever disturbs the machine disturbs all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import time

import numpy as np

Run = Callable[[], object]
FEWEST_ROUNDS = 3
# Idle threads of the library that ran last still hold their cores for some milliseconds.
PAUSE_S = 0.02


def interleaved(
    runs: Mapping[str, Run], *, rounds: int, budget_s: float
) -> dict[str, list[float]]:
    """
    Run everything once unmeasured, then in turns.

    :param runs: what to run, by name.
    :param rounds: how often at most.
    :param budget_s: what has taken longer in sum has no further turn after the third.
    :returns: seconds of each run, by name.
    """
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            if number >= min(FEWEST_ROUNDS, rounds) and sum(seconds[name]) > budget_s:
                continue
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ms(seconds: list[float]) -> float:
    """Return the median in milliseconds."""
    return float(np.median(seconds)) * 1e3
