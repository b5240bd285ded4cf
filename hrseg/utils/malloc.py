"""Tuning of malloc for CPUs."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_OLD_LIMIT = 32 * 2**20  # of a block, before glibc 2.35
_KEPT = 2**31 - 1


def keep_freed_memory(largest_block: int = _OLD_LIMIT) -> bool:
    """Keeps up to 2 GiB of freed memory in this process for later allocations.

    A training step and the prediction of an image free nearly all memory that they allocate. By default glibc returns
    it to the system, which maps and clears it again, page by page, for the next. The peak is unchanged.

    Args:
        largest_block: In bytes; larger blocks are returned at once, as they could fragment the heap. At most 32 MiB
            before glibc 2.35.

    Returns:
        Whether the C library supports this: glibc, that is most Linux distributions.

    Source:
        mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    is_kept = mallopt(_MMAP_THRESHOLD, largest_block) or mallopt(_MMAP_THRESHOLD, min(largest_block, _OLD_LIMIT))
    return bool(is_kept and mallopt(_TRIM_THRESHOLD, _KEPT))
