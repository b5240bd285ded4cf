from __future__ import annotations

import torch

from experiments.benchmarks import deterministic
from experiments.benchmarks.interleaved import HRSEG
from experiments.benchmarks.train import Step


def test_alternatives_have_a_subprocess_each() -> None:
    """So that the mode of one neither affects the others nor this process."""
    rows = deterministic.measure_deterministic(1, 1, Step("hrnetv2_w18_small_v1", 2, (64, 64)))
    sides = (HRSEG, deterministic.DETERMINISTIC, deterministic.UNFILLED)
    assert [(row.side, row.unit) for row in rows] == [(side, unit) for unit in ("s", "MiB") for side in sides]
    assert all(row.value > 0 for row in rows)
    assert not torch.are_deterministic_algorithms_enabled()
