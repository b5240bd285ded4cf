from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from hrseg.errors import ConfigError, UnknownNameError
from hrseg.optim import create_optimizer, create_schedule


def rates_of_official_loop(base: float, steps: int, head_factor: float) -> list[tuple[float, float]]:
    """Learning rates at which each iteration runs: the rate is written after the step, from that step's index."""
    rates, rate = [], base
    for iteration in range(steps):
        rates.append((rate, rate * head_factor))
        rate = base * (1 - iteration / steps) ** 0.9
    return rates


def run(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[tuple[float, ...]]:
    rates = []
    for _ in range(steps):
        rates.append(tuple(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        schedule.step()
    return rates


def head_and_backbone(lr: float = 0.01) -> Optimizer:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [weight], "lr_factor": factor} for weight, factor in zip(weights, (1, 10), strict=True)]
    return create_optimizer(partial(SGD, lr=lr, momentum=0.9), groups)


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_poly_is_the_official_loop(steps: int) -> None:
    optimizer = head_and_backbone()
    rates = run(optimizer, create_schedule(optimizer, "poly", steps), steps)
    assert rates == [pytest.approx(pair, rel=1e-12) for pair in rates_of_official_loop(0.01, steps, 10)]


def test_poly_lags_one_iteration() -> None:
    optimizer = head_and_backbone(lr=1.0)
    rates = [rate for rate, _ in run(optimizer, create_schedule(optimizer, "poly", 10, power=1.0), 12)]
    assert rates == pytest.approx([1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])


def test_power_zero_is_constant() -> None:
    optimizer = head_and_backbone(lr=1.0)
    assert {rate for rate, _ in run(optimizer, create_schedule(optimizer, "poly", 5, power=0.0), 5)} == {1.0}


def test_warm_up_is_a_factor_on_the_schedule() -> None:
    optimizer, plain = head_and_backbone(lr=1.0), head_and_backbone(lr=1.0)
    warm = [
        rate for rate, _ in run(optimizer, create_schedule(optimizer, "poly", 20, warmup_steps=4, warmup_ratio=0.2), 20)
    ]
    cold = [rate for rate, _ in run(plain, create_schedule(plain, "poly", 20), 20)]
    factors = [0.2, 0.4, 0.6, 0.8] + [1.0] * 16
    assert warm == pytest.approx([factor * rate for factor, rate in zip(factors, cold, strict=True)])


@pytest.mark.parametrize("total", [20, 30])
def test_a_resumed_schedule_follows_the_new_total(total: int) -> None:
    first = head_and_backbone()
    schedule = create_schedule(first, "poly", 20)
    run(first, schedule, 7)
    second = head_and_backbone(lr=0.5)  # another rate: the state's holds
    resumed = create_schedule(second, "poly", total)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    expected = rates_of_official_loop(0.01, total, 10)[8:20]
    assert run(second, resumed, 13)[1:] == [pytest.approx(pair) for pair in expected]


@pytest.mark.parametrize(
    "create",
    [
        lambda optimizer: create_schedule(optimizer, "poly", 0),
        lambda optimizer: create_schedule(optimizer, "poly", 10, power=-1.0),
        lambda optimizer: create_schedule(optimizer, "poly", 10, warmup_steps=10),
        lambda optimizer: create_schedule(optimizer, "poly", 10, warmup_steps=-1),
        lambda optimizer: create_schedule(optimizer, "poly", 10, warmup_steps=2, warmup_ratio=1.5),
    ],
)
def test_schedule_out_of_range(create: Callable[[Optimizer], LRScheduler]) -> None:
    with pytest.raises(ConfigError, match=r"expected|needs an end"):
        create(head_and_backbone())


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_cosine_is_that_of_torch(steps: int) -> None:
    ours, theirs = head_and_backbone(), head_and_backbone()
    expected = run(theirs, CosineAnnealingLR(theirs, steps), steps)
    assert run(ours, create_schedule(ours, "cosine", steps), steps) == [pytest.approx(pair) for pair in expected]


def test_step_falls_to_a_tenth_at_30_60_and_90_percent() -> None:
    ours, theirs = head_and_backbone(), head_and_backbone()
    expected = run(theirs, MultiStepLR(theirs, [6, 12, 18]), 20)
    assert run(ours, create_schedule(ours, "step", 20), 20) == [pytest.approx(pair) for pair in expected]


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_every_schedule_has_the_warm_up(schedule: str) -> None:
    warm, cold = head_and_backbone(), head_and_backbone()
    rates = run(warm, create_schedule(warm, schedule, 20, warmup_steps=4, warmup_ratio=0.2), 20)
    factors = [0.2, 0.4, 0.6, 0.8] + [1.0] * 16
    for factor, pair, full in zip(factors, rates, run(cold, create_schedule(cold, schedule, 20), 20), strict=True):
        assert pair == pytest.approx([factor * rate for rate in full])


def test_a_schedule_of_the_user_starts_after_the_warm_up() -> None:
    def halves(optimizer: Optimizer) -> LRScheduler:
        return StepLR(optimizer, 3, gamma=0.5)

    optimizer = head_and_backbone(lr=1.0)
    rates = [rate for rate, _ in run(optimizer, create_schedule(optimizer, halves, 20, warmup_steps=2), 9)]
    assert rates == pytest.approx([1e-6, 0.5, 1, 1, 1, 0.5, 0.5, 0.5, 0.25], rel=1e-5)
    alone = head_and_backbone(lr=1.0)
    assert isinstance(create_schedule(alone, halves, math.inf), StepLR)  # which needs no end


@pytest.mark.parametrize("schedule", ["cosine", "step", partial(OneCycleLR, max_lr=0.1, total_steps=18)])
def test_a_resumed_schedule_of_any_kind_continues(schedule: Any) -> None:
    whole = head_and_backbone()
    expected = run(whole, create_schedule(whole, schedule, 20, warmup_steps=2), 20)[9:]
    first, second = head_and_backbone(), head_and_backbone()
    before, after = (create_schedule(one, schedule, 20, warmup_steps=2) for one in (first, second))
    run(first, before, 9)
    second.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    assert run(second, after, 11) == expected


def test_an_unknown_schedule() -> None:
    with pytest.raises(UnknownNameError, match="did you mean cosine"):
        create_schedule(head_and_backbone(), "cosin", 10)  # type: ignore[arg-type]


def test_a_warm_up_before_a_plateau_is_refused() -> None:
    with pytest.raises(ConfigError, match="ReduceLROnPlateau cannot"):
        create_schedule(head_and_backbone(), ReduceLROnPlateau, 10, warmup_steps=2)
