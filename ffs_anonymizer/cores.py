"""How many cores there are for this process, and what they can do."""

from __future__ import annotations

import os
from pathlib import Path


def cores() -> int:
    """
    Return the number of cores that this process is to use, at least 1.

    Those that it may run on; fewer where `OMP_NUM_THREADS` says so, as schedulers do that put
    several processes on one machine (Ray, Slurm).
    """
    found = len(os.sched_getaffinity(0))
    asked = os.environ.get('OMP_NUM_THREADS', '')
    return min(found, int(asked)) if asked.isdecimal() and int(asked) else found


def features(cpuinfo: Path = Path('/proc/cpuinfo')) -> frozenset[str]:
    """Return what the processor can do in Linux' words, such as avx2, among other words."""
    try:
        return frozenset(cpuinfo.read_text(encoding='utf-8').split())
    except OSError:
        return frozenset()
