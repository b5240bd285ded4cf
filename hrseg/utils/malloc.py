"""Tuning of malloc for training on CPUs."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_BLOCK_KEPT = 32 * 2**20  # larger blocks are returned at once, as they would fragment the heap
_KEPT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keeps up to 2 GiB of freed memory in this process for later allocations.

    A training step frees nearly all memory that it allocates. By default glibc returns it to the system, which maps and
    clears it again, page by page, for the next step. The peak is unchanged.

    Returns:
        Whether the C library supports this: glibc, that is most Linux distributions.

    Source:
        mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all((mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK_KEPT), mallopt(_TRIM_THRESHOLD, _KEPT)))
