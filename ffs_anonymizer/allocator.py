"""The C library's allocator, told to keep the memory of large messages."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_memory(*, arenas: int = 0) -> None:
    """
    Let freed memory be used again instead of being handed back page by page.

    By default each large message is mapped, touched page by page and unmapped again; of copying a
    bag with messages of megabytes, that is more than half of the CPU time.

    :param arenas: most pools that threads have of their own; 0 leaves that to the C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    if arenas:
        mallopt(_M_ARENA_MAX, arenas)
