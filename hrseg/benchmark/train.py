"""One training step: forward, loss, backward, step of the optimiser; its time and its memory."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hrseg.benchmark.rounds import HRSEG, Row, compare, default_device, require_close, take_turns
from hrseg.losses import CrossEntropyLoss
from hrseg.memory import keep_freed_memory
from hrseg.models import Segmenter, create_model

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

    Each side has a process of its own, since the two treat freed memory differently; they take turns all the same. The
    memory of a side is what its process grows by at its peak; on a GPU, what torch allocates. Only Linux tells the peak
    of a process on the CPU; elsewhere memory is left out.

    Args:
        repeats: Number of rounds.
        threads: Of torch.
        network: Name of the network.
        batch_size: Images a step.
        size: (height, width) of the images.
    """
    case = f"{network} {batch_size}x3x{size[0]}x{size[1]}"
    seconds: dict[str, list[float]] = {HRSEG: [], PLAIN: []}
    memory: dict[str, list[float]] = {HRSEG: [], PLAIN: []}
    generations = min(repeats, 3)  # where a process finds its memory is luck
    for _ in range(generations):
        with ExitStack() as stack:
            workers = {side: stack.enter_context(_Worker(side, threads, network, batch_size, size)) for side in seconds}
            for _ in range(2):  # the second loss tells whether the first step was the same
                require_close(*(torch.tensor(worker.step(), device=default_device()) for worker in workers.values()))
            steps = {side: worker.step for side, worker in workers.items()}
            for side, values in take_turns(steps, math.ceil(repeats / generations)).items():
                seconds[side] += values
            for side, worker in workers.items():
                memory[side].append(worker.peak_memory())
    rows = compare("train", case, seconds, {PLAIN: SPEEDUP})
    if torch.cuda.is_available() or _STATUS.exists():
        rows += compare("train", f"{case}, peak memory", memory, {PLAIN: MEMORY_RATIO}, unit="MiB")
    return rows


class _Worker:
    """A process that makes one side's steps when told to."""

    def __init__(self, *arguments: object) -> None:
        program = f"from hrseg.benchmark.train import serve; serve{arguments!r}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.communicate()

    def step(self) -> float:
        """Makes one step and returns its loss."""
        return self._ask("step")

    def peak_memory(self) -> float:
        """What the steps so far took at their peak beyond network and batch, in MiB."""
        return self._ask("peak_memory")

    def _ask(self, question: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(question, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def serve(side: str, threads: int, name: str, batch_size: int, size: tuple[int, int]) -> None:
    """Answers the questions of a `_Worker`, one a line, until there are no more."""
    torch.set_num_threads(threads)
    if side == HRSEG:
        keep_freed_memory()  # as `SegmentationTask` does
    step = _training_step(side, name, batch_size, size)
    before = _memory("VmRSS", torch.cuda.memory_allocated)
    for question in sys.stdin:
        answer = float(step()) if question == "step\n" else _memory("VmHWM", torch.cuda.max_memory_allocated) - before
        print(answer, flush=True)


def _training_step(side: str, name: str, batch_size: int, size: tuple[int, int]) -> Callable[[], Tensor]:
    """Makes a function that does one step and returns the loss."""
    device = default_device()
    torch.manual_seed(0)
    network = create_model(name, init="kaiming").to(device)
    assert isinstance(network, Segmenter)
    images = torch.randn(batch_size, 3, *size, device=device)
    target = torch.randint(0, network.num_classes, (batch_size, *size), dtype=torch.uint8, device=device)
    target[:, : size[0] // 8] = 255
    if side == HRSEG:
        network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    criterion = CrossEntropyLoss(align_corners=network.align_corners)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(maps, size, mode="bilinear", align_corners=network.align_corners)

    def loss_of_batch() -> Tensor:
        if side == HRSEG:
            loss: Tensor = criterion(network.outputs(images)["out"], target)
            return loss
        finest, *coarser = network.features(images)
        logits = torch.cat([finest, *(enlarge(maps, finest.shape[-2:]) for maps in coarser)], 1)
        for layer in network.get_submodule("last_layer").children():
            logits = layer(logits)
        return F.cross_entropy(enlarge(logits, size), target.long(), ignore_index=255)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of_batch()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def _memory(entry: str, on_gpu: Callable[[], int]) -> float:
    """What a GPU, or an entry of what Linux says of this process, holds, in MiB; NaN where neither is there.

    Unlike the peak of `getrusage`, Linux's entry is not that of the process which started this one.
    """
    if torch.cuda.is_available():
        return on_gpu() / 2**20
    if not _STATUS.exists():
        return math.nan
    lines = _STATUS.read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{entry}:"))) / 2**10
