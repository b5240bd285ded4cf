from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hrseg.errors import ConfigError
from hrseg.optim import create_optimizer, parameter_groups, poly_schedule


class Net(nn.Module):
    """Two trunk layers with a norm between, a head with a bias, and a head whose name begins like it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.last_layer = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        self.last_layer_of_trunk = nn.Conv2d(4, 4, 1)


def names_of(net: nn.Module, group: dict[str, object]) -> list[str]:
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return [names[id(parameter)] for parameter in group["params"]]


TRUNK = ["conv.weight", "norm.weight", "norm.bias", "last_layer_of_trunk.weight", "last_layer_of_trunk.bias"]
HEAD = [f"last_layer.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]


def test_one_group_by_default() -> None:
    net = Net()
    (group,) = parameter_groups(net)
    assert group["name"] == "network"
    assert "weight_decay" not in group
    assert sorted(names_of(net, group)) == sorted(TRUNK + HEAD)


def test_head_apart_from_the_trunk() -> None:
    net = Net()
    trunk, head = parameter_groups(net, head_lr_factor=10, head_names=("last_layer",))
    assert (trunk["name"], trunk["lr_factor"]) == ("trunk", 1.0)
    assert (head["name"], head["lr_factor"]) == ("head", 10)
    assert names_of(net, trunk) == TRUNK
    assert names_of(net, head) == HEAD


def test_no_decay_on_norms_and_biases() -> None:
    net = Net()
    groups = {g["name"]: g for g in parameter_groups(net, 2.0, decay_norm_and_bias=False, head_names=["last_layer"])}
    assert {name: names_of(net, group) for name, group in groups.items()} == {
        "trunk": ["conv.weight", "last_layer_of_trunk.weight"],
        "trunk_no_decay": ["norm.weight", "norm.bias", "last_layer_of_trunk.bias"],
        "head": ["last_layer.0.weight", "last_layer.2.weight"],
        "head_no_decay": [name for name in HEAD if name not in ("last_layer.0.weight", "last_layer.2.weight")],
    }
    optimizer = create_optimizer(partial(SGD, lr=0.01, weight_decay=5e-4), list(groups.values()))
    assert {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {
        "trunk": (0.01, 5e-4),
        "trunk_no_decay": (0.01, 0.0),
        "head": (0.02, 5e-4),
        "head_no_decay": (0.02, 0.0),
    }


def test_no_group_is_empty() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 2, 1, bias=False))
    groups = parameter_groups(net, head_lr_factor=10, decay_norm_and_bias=False, head_names=["1"])
    assert [(group["name"], len(group["params"])) for group in groups] == [("trunk", 1), ("head", 1)]


def test_a_shared_parameter_stands_in_one_group() -> None:
    net = Net()
    net.last_layer[2].weight = net.conv.weight
    groups = parameter_groups(net, head_lr_factor=10, head_names=["last_layer"])
    SGD(groups, lr=0.1)  # raises if a parameter is in two groups


@pytest.mark.parametrize(
    ("factor", "head_names", "message"),
    [
        (10.0, (), "Net has no head names; head_names must be among conv, norm, last_layer"),
        (10.0, ("head",), "Net has no head head"),
        (0.0, ("last_layer",), "expected a number above 0"),
    ],
)
def test_head_that_is_not_there(factor: float, head_names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parameter_groups(Net(), head_lr_factor=factor, head_names=head_names)


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
    groups = parameter_groups(Net(), head_lr_factor=10, head_names=["last_layer"])
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


def test_group_names_reach_the_learning_rate_monitor() -> None:
    assert [group["name"] for group in head_and_trunk().param_groups] == ["trunk", "head"]


def test_adamw_takes_the_groups() -> None:
    groups = parameter_groups(Net(), decay_norm_and_bias=False)
    optimizer = create_optimizer(partial(torch.optim.AdamW, lr=1e-3), groups)
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        ("network", 1e-3, 0.01),
        ("network_no_decay", 1e-3, 0.0),
    ]
