"""How much memory is in use and how much is left, and how the C library keeps what tensors on the CPU come from."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

import torch

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


def peak_memory(device: torch.device) -> float:
    """The most memory that was in use so far, in GiB: a GPU's, as allocated by PyTorch, or that of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def available_memory(device: torch.device) -> float | None:
    """The memory that this process can still get, in GiB: a GPU's, or the machine's and its swap; None if unknown.

    Source:
        proc_meminfo(5).
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + kept) / 2**30
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.is_file():
        return None
    kibibytes = re.findall(r"^(?:MemAvailable|SwapFree): +(\d+) kB", meminfo.read_text(), re.MULTILINE)
    return sum(map(int, kibibytes)) / 2**20 if len(kibibytes) == 2 else None
