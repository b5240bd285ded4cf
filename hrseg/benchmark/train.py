"""One training step: forward, loss, backward, step of the optimiser; its time and its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hrseg.benchmark.rounds import HRSEG, Row, compare, default_device, require_close, take_turns, torch_threads
from hrseg.losses import CrossEntropyLoss
from hrseg.models import create_model

PLAIN = "NCHW, F.interpolate, F.cross_entropy"
SPEEDUP = 1.35  # what is to be reached over `PLAIN` on a CPU
MEMORY_RATIO = 1.0  # what `PLAIN` takes over what hrseg takes

_STATUS = Path("/proc/self/status")


def measure_train(
    repeats: int = 10,
    threads: int = 2,
    network: str = "hrnetv2_w18",
    batch_size: int = 4,
    size: tuple[int, int] = (256, 512),
) -> list[Row]:
    """Times a training step as `SegmentationTask` makes it against the shortest way to write one.

    The memory of each side is what a fresh process grows by at the peak of three steps; on a GPU, what torch allocates.
    Only Linux tells the peak of a process on the CPU; elsewhere memory is left out.

    Args:
        repeats: Number of rounds.
        threads: Of torch.
        network: Name of the network.
        batch_size: Images a step.
        size: (height, width) of the images.
    """
    case = f"{network} {batch_size}x3x{size[0]}x{size[1]}"
    with torch_threads(threads):
        steps = {side: _training_step(side, network, batch_size, size) for side in (HRSEG, PLAIN)}
        for _ in range(2):  # the second loss tells whether the first step was the same
            require_close(*(step() for step in steps.values()))
        rows = compare("train", case, take_turns(steps, repeats), {PLAIN: SPEEDUP})
    if not torch.cuda.is_available() and not _STATUS.exists():
        return rows
    memory: dict[str, list[float]] = {side: [] for side in steps}
    del steps
    for _ in range(min(repeats, 3)):
        for side, peaks in memory.items():
            peaks.append(_in_fresh_process(f"peak_memory({side!r}, {threads}, {network!r}, {batch_size}, {size})"))
    return rows + compare("train", f"{case}, peak memory", memory, {PLAIN: MEMORY_RATIO}, unit="MiB")


def _training_step(side: str, name: str, batch_size: int, size: tuple[int, int]) -> Callable[[], Tensor]:
    """Makes a function that does one step and returns the loss."""
    device = default_device()
    torch.manual_seed(0)
    network = create_model(name, init="kaiming").to(device)
    images = torch.randn(batch_size, 3, *size, device=device)
    target = torch.randint(0, network.num_classes, (batch_size, *size), dtype=torch.uint8, device=device)
    target[:, : size[0] // 8] = 255
    if side == HRSEG:
        network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    criterion = CrossEntropyLoss(align_corners=network.align_corners)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def loss_of(logits: Tensor) -> Tensor:
        if side == HRSEG:
            loss: Tensor = criterion(logits, target)
            return loss
        enlarged = F.interpolate(logits, size, mode="bilinear", align_corners=network.align_corners)
        return F.cross_entropy(enlarged, target.long(), ignore_index=255)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(network.outputs(images)["out"])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def _in_fresh_process(call: str) -> float:
    # glibc would keep freed blocks of up to 32 MiB for later, more or less of them from run to run; told like this it
    # returns all large ones at once, and the process is as large as what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    program = f"from hrseg.benchmark.train import peak_memory; print({call})"
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(process.stdout)


def peak_memory(side: str, threads: int, name: str, batch_size: int, size: tuple[int, int]) -> float:
    """What three steps take at their peak beyond network and batch, in MiB; for a process that has done nothing yet."""
    torch.set_num_threads(threads)
    step = _training_step(side, name, batch_size, size)
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        for _ in range(3):
            step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _status("VmRSS")
    for _ in range(3):
        step()
    return (_status("VmHWM") - before) / 2**10


def _status(entry: str) -> int:
    """An entry of what Linux says of this process, in KiB.

    Unlike `getrusage`, whose peak a process inherits from the one that started it.
    """
    lines = _STATUS.read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{entry}:")))
