"""The C library's allocator, told to keep the memory of large messages."""

from __future__ import annotations

import contextlib
import ctypes

# For each variable of glibc the number of the option that mallopt() knows, and our value.
_KEEPING = {'MALLOC_MMAP_THRESHOLD_': (-3, 1 << 30), 'MALLOC_TRIM_THRESHOLD_': (-1, 2**31 - 1)}
_ONE_ARENA = {'MALLOC_ARENA_MAX': (-8, 1)}
# What tells a process that is yet to be started the same as keep_memory(one_arena=True).
ENVIRONMENT = {name: str(value) for name, (_, value) in {**_KEEPING, **_ONE_ARENA}.items()}


def keep_memory(*, one_arena: bool = False) -> None:
    """
    Let freed memory be used again instead of being handed back page by page.

    By default each large message is mapped, touched page by page and unmapped again; of copying a
    bag with messages of megabytes, that is more than half of the CPU time.

    :param one_arena: whether all threads share one pool, instead of as the C library likes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    for option, value in {**_KEEPING, **(_ONE_ARENA if one_arena else {})}.values():
        mallopt(option, value)


def give_back() -> None:
    """Hand freed memory back to the system, which is kept otherwise for what comes next."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
