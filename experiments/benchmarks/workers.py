"""Interleaved timing of alternatives in one subprocess each, which gives the peak memory of each."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from experiments.benchmarks.interleaved import Row, compare, default_device, require_close, time_interleaved

_STATUS = Path("/proc/self/status")


def compare_apart(
    subject: str,
    case: str,
    make: Callable[..., Callable[[], Tensor]],
    sides: Sequence[str],
    arguments: tuple[object, ...],
    repeats: int,
    threads: int,
    speedups: Mapping[str, float],
    memory_ratios: Mapping[str, float],
) -> list[Row]:
    """Compares time and peak memory of alternatives that run in a subprocess each, their timings interleaved.

    The memory is the growth of the peak resident memory of the subprocess; on a GPU, the memory that PyTorch allocates.
    On the CPU it is measured on Linux only.

    Args:
        subject: As in `Row`.
        case: As in `Row`.
        make: A function of a module that builds an alternative from its name and the arguments, and returns what to
            measure. Every run must give the same result for all alternatives; only the norms are compared.
        sides: Names of the alternatives; "hrseg" is one.
        arguments: Further arguments of `make`, plain values.
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch.
        speedups: Minimum ratio of the time by name of the alternative.
        memory_ratios: Minimum ratio of the memory by name of the alternative.

    Returns:
        Rows of the time, then of the memory.
    """
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    memory: dict[str, list[float]] = {side: [] for side in sides}
    generations = min(repeats, 3)  # the memory layout of a subprocess is random
    for _ in range(generations):
        with ExitStack() as stack:
            workers = {side: stack.enter_context(Worker(make, threads, side, *arguments)) for side in sides}
            runs = {side: worker.run for side, worker in workers.items()}
            for side, values in time_interleaved(runs, math.ceil(repeats / generations)).items():
                seconds[side] += values
            # of all runs: the second result of a training step shows whether the first step was the same
            ours, *others = (torch.tensor(worker.norms, device=default_device()) for worker in workers.values())
            for other in others:
                for one, two in zip(ours, other, strict=True):
                    require_close(one, two)
            for side, worker in workers.items():
                memory[side].append(worker.peak_memory())
    rows = compare(subject, case, seconds, speedups)
    if torch.cuda.is_available() or _STATUS.exists():
        rows += compare(subject, f"{case}, peak memory", memory, memory_ratios, unit="MiB")
    return rows


class Worker:
    """A subprocess that runs one alternative on request."""

    def __init__(self, make: Callable[..., Callable[[], Tensor]], threads: int, *arguments: object) -> None:
        self.norms: list[float] = []  # of the results of all runs
        program = (
            f"from experiments.benchmarks.workers import serve; from {make.__module__} import {make.__name__}; "
            f"serve({make.__name__}, {threads}, {arguments!r})"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.communicate()

    def run(self) -> None:
        """Runs the alternative once."""
        self.norms.append(self._ask("run"))

    def peak_memory(self) -> float:
        """Peak memory of the runs so far beyond that before the first, in MiB."""
        return self._ask("peak_memory")

    def _ask(self, question: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(question, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def serve(make: Callable[..., Callable[[], Tensor]], threads: int, arguments: tuple[object, ...]) -> None:
    """Entry point of the subprocess: answers the requests of a `Worker`, one per line."""
    torch.set_num_threads(threads)
    run = make(*arguments)
    before = _memory("VmRSS", torch.cuda.memory_allocated)
    for question in sys.stdin:
        if question == "run\n":
            answer = float(run().norm())
        else:
            answer = _memory("VmHWM", torch.cuda.max_memory_allocated) - before
        print(answer, flush=True)


def _memory(entry: str, on_gpu: Callable[[], int]) -> float:
    """Memory of a GPU, or an entry of /proc/self/status, in MiB; NaN where there is neither.

    Unlike ru_maxrss of getrusage(2), VmHWM does not include the parent process.
    """
    if torch.cuda.is_available():
        return on_gpu() / 2**20
    if not _STATUS.exists():
        return math.nan
    lines = _STATUS.read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{entry}:"))) / 2**10
