"""Memory that a process frees: kept for its next tensors, instead of given back each time.

glibc maps large blocks anew and unmaps them as they are freed, so that every activation of a
forward pass is zeroed by the system page by page before it is written: millions of page faults, and
a twentieth of the time of reading a model of 135 M parameters on two cores, more with larger passes
(benchmarks/page_faults.py).
"""

from __future__ import annotations

import ctypes
import os

KEPT_BLOCK = 256 << 20  # bytes; larger ones are mapped, so that no gap of that size is left behind
KEPT_IN_ALL = 1 << 30  # bytes free at the end of the heap that stay there
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
CHOSEN_BY_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """For this process, for good; whether it is so.

    Not where the C library is not glibc, whose `mallopt` this is, nor where the environment has
    settings of its own.  For processes of ours: a library leaves the allocator of its caller alone.
    """
    if any(name in os.environ for name in CHOSEN_BY_USER):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    settings = {_M_MMAP_THRESHOLD: KEPT_BLOCK, _M_TRIM_THRESHOLD: KEPT_IN_ALL}
    return all([libc.mallopt(name, value) == 1 for name, value in settings.items()])
