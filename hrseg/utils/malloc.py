"""Tuning of glibc's malloc for training on CPUs."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_LARGEST_BLOCK_KEPT = 32 * 2**20  # larger ones go back at once: kept ones would lie about unused between smaller ones
_KEPT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets this process keep up to 2 GiB of freed memory for what it allocates next.

    A training step frees nearly all that it has allocated, and by default glibc hands that back to the system, which
    for the next step maps and clears it again, page by page. The peak stays the same.

    Returns:
        Whether the C library is one that can be told so: glibc, that is most of Linux.

    Source:
        mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all((mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK_KEPT), mallopt(_TRIM_THRESHOLD, _KEPT)))
