"""A data-parallel training step of two ranks, and the same step of one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, distributed, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from experiments.benchmarks.interleaved import Row, time_interleaved
from experiments.benchmarks.traffic import traffic_of
from hrseg.losses import CrossEntropyLoss, WeightedOutputsLoss
from hrseg.models import Segmenter, create_model, optimize_for_cpu
from hrseg.utils.malloc import keep_freed_memory

ONE = "1 process"
TWO = "2 processes"
APART = "2 processes, nothing sent"
SENDING = "2 processes, nothing computed"
KEPT = "throughput that sending leaves of it"  # robust where two ranks share their cores with others
HIDDEN = "share of the sending that computing hides"
_PROCESSES = 2
_TIMEOUT = timedelta(minutes=5)  # for the other rank


def measure_ddp(
    repeats: int = 10, network: str = "hrnetv2_w18", batch_size: int = 2, size: tuple[int, int] = (128, 256)
) -> list[Row]:
    """Times training steps of one rank and of two data-parallel ranks on the CPU, over gloo.

    Each rank has one thread and a batch of its own, so that two ranks do twice the work of one. All timings are
    interleaved in the same two processes. With nothing sent (`no_sync`) the ranks share only the machine; with nothing
    computed they only reduce buckets of the same sizes.

    Args:
        repeats: Number of rounds.
        network: Name of the network.
        batch_size: Images per step and rank.
        size: (height, width) of the images.

    Returns:
        Rows with the wall time, and with the CPU time of rank 0, which other load on the machine affects less; their
        ratio is the throughput per rank relative to a single rank. Then the throughput of two ranks relative to that
        with nothing sent, the share of the communication that the backward pass hides, and the bytes that a hook of
        DistributedDataParallel counted.

    Raises:
        AssertionError: The ranks end with different weights, or the bytes are not those of `traffic_of`.
    """
    seconds, processor, buckets, buffers = _run_processes(network, batch_size, size, repeats)
    gradients, expected = sum(buckets), traffic_of(network)
    assert gradients == expected.gradients, f"{gradients} bytes of gradients, not {expected.gradients}"
    assert buffers == expected.buffers, f"{buffers} bytes of buffers, not {expected.buffers}"
    case = f"{network} {batch_size}x3x{size[0]}x{size[1]} a process"
    rows = []
    for what, costs in ((case, seconds), (f"{case}, processor time", processor)):
        for side in (ONE, TWO, APART, SENDING):
            ratio = median(one / other for one, other in zip(costs[ONE], costs[side], strict=True))
            rows.append(Row("ddp", what, side, median(costs[side]), "s", None if side == SENDING else ratio))
    rounds = list(zip(seconds[TWO], seconds[APART], seconds[SENDING], strict=True))
    return [
        *rows,
        Row("ddp", case, KEPT, median(apart / two for two, apart, _ in rounds), ""),
        Row("ddp", case, HIDDEN, median(1 - (two - apart) / sending for two, apart, sending in rounds), ""),
        Row("ddp", case, "gradients averaged in a step", gradients / 1e6, "MB"),
        Row("ddp", case, "buffers broadcast in a step", buffers / 1e6, "MB"),
    ]


def _run_processes(
    network: str, batch_size: int, size: tuple[int, int], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], list[int], int]:
    """Runs both ranks.

    Returns:
        Wall time and CPU time of rank 0 for each alternative in seconds, one entry per round; the bytes of each bucket
        of gradients, and of all buffers.
    """
    with tempfile.TemporaryDirectory(prefix="hrseg-") as folder:
        arguments = (f"file://{Path(folder) / 'meeting'}", network, batch_size, size, repeats)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", f"from experiments.benchmarks.ddp import serve; serve({rank}, *{arguments!r})"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(_PROCESSES)
        ]
        try:
            answers = [process.communicate()[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        for process in processes:
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args)
    seconds, processor, buckets, buffers = json.loads(answers[0])
    return seconds, processor, buckets, buffers


def serve(rank: int, meeting: str, network: str, batch_size: int, size: tuple[int, int], repeats: int) -> None:
    """Entry point of one rank; rank 0 prints the measurements."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as `SegmentationTask` does
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=_PROCESSES, timeout=_TIMEOUT)
    images = torch.randn(batch_size, 3, *size, generator=torch.Generator().manual_seed(rank))
    images = images.contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, 19, (batch_size, *size), dtype=torch.uint8)
    alone = _Step(network)
    together = DistributedDataParallel(_Step(network))
    apart = DistributedDataParallel(_Step(network))  # after `no_sync`, it broadcasts no buffers
    buckets: list[int] = []
    # PyTorch refuses hooks whose annotations are strings
    together.register_comm_hook(buckets, lambda buckets, bucket: _count_and_average(buckets, bucket))

    def send() -> None:
        for size in buckets:
            distributed.all_reduce(torch.zeros(size // 4))

    take_one = _trainer(alone, images, target)
    take_apart = _trainer(apart, images, target)

    def step_apart() -> None:
        with apart.no_sync():
            take_apart()

    sides: dict[str, Callable[[], object]] = {
        ONE: take_one if rank == 0 else lambda: None,
        TWO: _trainer(together, images, target),
        APART: step_apart,
        SENDING: send,
    }
    processor: dict[str, list[float]] = {side: [] for side in sides}

    def run(side: str) -> None:
        start = time.process_time()
        sides[side]()
        distributed.barrier()
        processor[side].append(time.process_time() - start)

    seconds = time_interleaved({side: partial(run, side) for side in sides}, repeats)
    _require_same_weights(together)
    if rank == 0:
        processor = {side: values[1:] for side, values in processor.items()}  # the first round does not count
        buffers = sum(buffer.nbytes for buffer in together.modules_buffers)
        print(json.dumps((seconds, processor, buckets, buffers)))
    distributed.destroy_process_group()


def _count_and_average(buckets: list[int], bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The default hook of DistributedDataParallel, which also records the bytes of the buckets of the last step."""
    if bucket.index() == 0:
        buckets.clear()
    buckets.append(bucket.buffer().nbytes)
    return allreduce_hook(distributed.group.WORLD, bucket)  # type: ignore[arg-type]


class _Step(nn.Module):
    """Maps images and target to the loss, as `SegmentationTask` does."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        network = optimize_for_cpu(create_model(name, init="kaiming"))  # as `SegmentationTask` does
        assert isinstance(network, Segmenter)
        self.network = network.to(memory_format=torch.channels_last)
        weights = network.output_weights
        self.loss = WeightedOutputsLoss({output: CrossEntropyLoss() for output in weights}, weights)
        self.loss.bind(255, network.align_corners)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """The loss of one batch."""
        loss: Tensor = self.loss(self.network.outputs(images), target)
        return loss


def _trainer(module: nn.Module, images: Tensor, target: Tensor) -> Callable[[], None]:
    """Returns a function that runs one step."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        optimizer.zero_grad()
        module(images, target).backward()
        optimizer.step()

    return step


def _require_same_weights(module: nn.Module) -> None:
    """Raises an AssertionError unless all ranks have bitwise equal weights."""
    flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    everyone = [torch.empty_like(flat) for _ in range(_PROCESSES)]
    distributed.all_gather(everyone, flat)
    assert all(torch.equal(flat, other) for other in everyone), "the ranks trained different weights"
