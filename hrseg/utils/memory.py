"""Peak and available memory of a GPU or of the machine."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch


def peak_memory(device: torch.device) -> float:
    """Peak memory in GiB: of a GPU, as allocated by PyTorch, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    found = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else []
    if found:  # Linux, whose getrusage also counts what the parent process had before it started this one
        return int(found[0]) / 2**20
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def available_memory(device: torch.device) -> float | None:
    """Memory available to this process, in GiB: of a GPU, or of the machine, swap included; None if unknown.

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
