"""What another process has taken of the machine so far."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_s(pid: int) -> float:
    """Return the processor's time that a process has taken so far."""
    fields = Path(f'/proc/{pid}/stat').read_text(encoding='ascii').rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def private_kib(pid: int) -> int:
    """Return the memory that a process has for itself; what is shared with others is left out."""
    text = Path(f'/proc/{pid}/smaps_rollup').read_text(encoding='ascii')
    return int(text.partition('Anonymous:')[2].split()[0])
