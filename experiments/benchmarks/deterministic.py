"""Time and memory of one training step in deterministic mode and without."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from experiments.benchmarks.interleaved import HRSEG, Row
from experiments.benchmarks.train import STEP, Step, training_step
from experiments.benchmarks.workers import compare_apart

DETERMINISTIC = "in deterministic mode"
UNFILLED = "in deterministic mode, new memory not filled"  # which exposes reads of it


def measure_deterministic(repeats: int = 10, threads: int = 2, step: Step = STEP) -> list[Row]:
    """Times a training step with and without `experiments/options/deterministic.yaml`.

    Args:
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch.
        step: What is trained.
    """
    sides = (HRSEG, DETERMINISTIC, UNFILLED)
    return compare_apart("deterministic", step.case, _make, sides, tuple(step), repeats, threads, {}, {})


def _make(side: str, name: str, batch_size: int, size: tuple[int, int]) -> Callable[[], Tensor]:
    """Returns a function that runs one step; each alternative has a subprocess of its own."""
    torch.backends.cudnn.benchmark = side == HRSEG  # as in the recipes
    if side != HRSEG:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # as Lightning does
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = side == DETERMINISTIC  # type: ignore[attr-defined]
    return training_step(HRSEG, name, batch_size, size)
