"""How many cores there are for this process."""

from __future__ import annotations

import os


def cores() -> int:
    """
    Return the number of cores that this process is to use, at least 1.

    Those that it may run on; fewer where `OMP_NUM_THREADS` says so, as schedulers do that put
    several processes on one machine (Ray, Slurm).
    """
    found = len(os.sched_getaffinity(0))
    asked = os.environ.get('OMP_NUM_THREADS', '')
    return min(found, int(asked)) if asked.isdecimal() and int(asked) else found
