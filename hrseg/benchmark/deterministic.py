"""One training step in deterministic mode beside the usual one; its time and its memory."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from hrseg.benchmark.rounds import HRSEG, Row
from hrseg.benchmark.train import training_step
from hrseg.benchmark.workers import compare_apart

DETERMINISTIC = "in deterministic mode"
UNFILLED = "in deterministic mode, new memory not filled"  # torch fills it with NaN, to show what reads it too early


def measure_deterministic(
    repeats: int = 10,
    threads: int = 2,
    network: str = "hrnetv2_w18",
    batch_size: int = 4,
    size: tuple[int, int] = (256, 512),
) -> list[Row]:
    """Times a training step as it is and as `experiments/options/deterministic.yaml` makes it.

    Args:
        repeats: Number of rounds.
        threads: Of torch.
        network: Name of the network.
        batch_size: Images a step.
        size: (height, width) of the images.
    """
    case = f"{network} {batch_size}x3x{size[0]}x{size[1]}"
    arguments = (network, batch_size, size)
    sides = (HRSEG, DETERMINISTIC, UNFILLED)
    return compare_apart("deterministic", case, _make, sides, arguments, repeats, threads, {}, {})


def _make(side: str, name: str, batch_size: int, size: tuple[int, int]) -> Callable[[], Tensor]:
    """Makes a function that does one step, in a process that the side has for itself."""
    torch.backends.cudnn.benchmark = side == HRSEG  # as in the recipes
    if side != HRSEG:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # as Lightning does
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = side == DETERMINISTIC  # type: ignore[attr-defined]
    return training_step(HRSEG, name, batch_size, size)
