from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hrseg.errors import ConfigError
from hrseg.optim import create_optimizer, poly_schedule


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


def head_and_trunk(lr: float = 0.01) -> Optimizer:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [weight], "lr_factor": factor} for weight, factor in zip(weights, (1, 10), strict=True)]
    return create_optimizer(partial(SGD, lr=lr, momentum=0.9), groups)


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_poly_is_the_official_loop(steps: int) -> None:
    optimizer = head_and_trunk()
    rates = run(optimizer, poly_schedule(optimizer, steps), steps)
    assert rates == [pytest.approx(pair, rel=1e-12) for pair in rates_of_official_loop(0.01, steps, 10)]


def test_poly_lags_one_iteration() -> None:
    optimizer = head_and_trunk(lr=1.0)
    rates = [rate for rate, _ in run(optimizer, poly_schedule(optimizer, 10, power=1.0), 12)]
    assert rates == pytest.approx([1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])


def test_power_zero_is_constant() -> None:
    optimizer = head_and_trunk(lr=1.0)
    assert {rate for rate, _ in run(optimizer, poly_schedule(optimizer, 5, power=0.0), 5)} == {1.0}


def test_warm_up_is_a_factor_on_the_schedule() -> None:
    optimizer, plain = head_and_trunk(lr=1.0), head_and_trunk(lr=1.0)
    warm = [rate for rate, _ in run(optimizer, poly_schedule(optimizer, 20, warmup_steps=4, warmup_ratio=0.2), 20)]
    cold = [rate for rate, _ in run(plain, poly_schedule(plain, 20), 20)]
    factors = [0.2, 0.4, 0.6, 0.8] + [1.0] * 16
    assert warm == pytest.approx([factor * rate for factor, rate in zip(factors, cold, strict=True)])


@pytest.mark.parametrize("total", [20, 30])
def test_a_resumed_schedule_goes_on_under_the_new_total(total: int) -> None:
    first = head_and_trunk()
    schedule = poly_schedule(first, 20)
    run(first, schedule, 7)
    second = head_and_trunk(lr=0.5)  # another rate: the state's holds
    resumed = poly_schedule(second, total)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    expected = rates_of_official_loop(0.01, total, 10)[8:20]
    assert run(second, resumed, 13)[1:] == [pytest.approx(pair) for pair in expected]


@pytest.mark.parametrize(
    "create",
    [
        lambda optimizer: poly_schedule(optimizer, 0),
        lambda optimizer: poly_schedule(optimizer, 10, power=-1.0),
        lambda optimizer: poly_schedule(optimizer, 10, warmup_steps=10),
        lambda optimizer: poly_schedule(optimizer, 10, warmup_steps=-1),
        lambda optimizer: poly_schedule(optimizer, 10, warmup_steps=2, warmup_ratio=1.5),
    ],
)
def test_schedule_out_of_range(create: Callable[[Optimizer], LRScheduler]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        create(head_and_trunk())
