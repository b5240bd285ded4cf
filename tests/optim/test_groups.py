from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD

from hrseg.errors import ConfigError
from hrseg.models import create_model
from hrseg.optim import create_optimizer, parameter_groups


class Net(nn.Module):
    """Two backbone layers with a norm between, a head with a bias, and a head whose name begins like it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.last_layer = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        self.last_layer_of_backbone = nn.Conv2d(4, 4, 1)


def names_of(net: nn.Module, group: dict[str, object]) -> list[str]:
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return [names[id(parameter)] for parameter in group["params"]]


BACKBONE = ["conv.weight", "norm.weight", "norm.bias", "last_layer_of_backbone.weight", "last_layer_of_backbone.bias"]
HEAD = [f"last_layer.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]


def test_one_group_by_default() -> None:
    net = Net()
    (group,) = parameter_groups(net)
    assert group["name"] == "network"
    assert "weight_decay" not in group
    assert sorted(names_of(net, group)) == sorted(BACKBONE + HEAD)


def test_head_apart_from_the_backbone() -> None:
    net = Net()
    backbone, head = parameter_groups(net, head_lr_factor=10, head_names=("last_layer",))
    assert (backbone["name"], backbone["lr_factor"]) == ("backbone", 1.0)
    assert (head["name"], head["lr_factor"]) == ("head", 10)
    assert names_of(net, backbone) == BACKBONE
    assert names_of(net, head) == HEAD


def test_no_decay_on_norms_and_biases() -> None:
    net = Net()
    groups = {g["name"]: g for g in parameter_groups(net, 2.0, decay_norm_and_bias=False, head_names=["last_layer"])}
    assert {name: names_of(net, group) for name, group in groups.items()} == {
        "backbone": ["conv.weight", "last_layer_of_backbone.weight"],
        "backbone_no_decay": ["norm.weight", "norm.bias", "last_layer_of_backbone.bias"],
        "head": ["last_layer.0.weight", "last_layer.2.weight"],
        "head_no_decay": [name for name in HEAD if name not in ("last_layer.0.weight", "last_layer.2.weight")],
    }
    optimizer = create_optimizer(partial(SGD, lr=0.01, weight_decay=5e-4), list(groups.values()))
    assert {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {
        "backbone": (0.01, 5e-4),
        "backbone_no_decay": (0.01, 0.0),
        "head": (0.02, 5e-4),
        "head_no_decay": (0.02, 0.0),
    }


@pytest.mark.parametrize("name", ["hrformer_t_ocr", "hrnetv2_w18_small_v1_psa_s"])
def test_only_matrices_and_kernels_decay(name: str) -> None:
    """Layer norms with three-dimensional weights do not, nor do tables of relative positions, which are biases."""
    with torch.device("meta"):
        net = create_model(name)
    decaying = {id(p) for p in parameter_groups(net, decay_norm_and_bias=False)[0]["params"]}
    weights = {id(module.weight) for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert decaying == weights


def test_no_group_is_empty() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 2, 1, bias=False))
    groups = parameter_groups(net, head_lr_factor=10, decay_norm_and_bias=False, head_names=["1"])
    assert [(group["name"], len(group["params"])) for group in groups] == [("backbone", 1), ("head", 1)]


def test_a_shared_parameter_is_in_one_group() -> None:
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
def test_a_missing_head(factor: float, head_names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parameter_groups(Net(), head_lr_factor=factor, head_names=head_names)


def test_group_names_reach_the_learning_rate_monitor() -> None:
    groups = parameter_groups(Net(), head_lr_factor=10, head_names=["last_layer"])
    optimizer = create_optimizer(partial(SGD, lr=0.01, momentum=0.9), groups)
    assert [(group["name"], group["lr"]) for group in optimizer.param_groups] == [("backbone", 0.01), ("head", 0.1)]


def test_adamw_takes_the_groups() -> None:
    groups = parameter_groups(Net(), decay_norm_and_bias=False)
    optimizer = create_optimizer(partial(torch.optim.AdamW, lr=1e-3), groups)
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        ("network", 1e-3, 0.01),
        ("network_no_decay", 1e-3, 0.0),
    ]
