"""What of this process's memory is in use, whatever the allocator keeps beside it."""

from __future__ import annotations

import ctypes
import gc
import sys

_FIELDS = ('arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks')
# What Python's own allocator takes for a block on average; it has no more to say.
_PYTHON_BLOCK_BYTES = 100


class _Mallinfo2(ctypes.Structure):
    """Mirror glibc's struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in (*_FIELDS, 'fordblks', 'keepcost')]


def used_bytes() -> int:
    """
    Return the bytes in use, of C, C++ and numpy exactly and of Python about.

    :raises AttributeError: the C library is not glibc from 2.33.
    """
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd) + _PYTHON_BLOCK_BYTES * sys.getallocatedblocks()
