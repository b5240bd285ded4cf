from __future__ import annotations

import pytest
from torch import nn

from hrseg.errors import ConfigError
from hrseg.models import create_model
from hrseg.optim import freeze_layers, parameter_groups


class Net(nn.Module):
    """Two layers with norms, and a head of two attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
        self.stage2 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False))
        self.cls = nn.Conv2d(4, 2, 1)
        self.aux = nn.Conv2d(4, 2, 1)


HEAD = ("cls", "aux")


def trained(net: nn.Module) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("patterns", "left", "still"),
    [
        (["backbone"], {"cls.weight", "cls.bias", "aux.weight", "aux.bias"}, {"stage1", "stage2"}),
        (["stage1", "head"], {"stage2.0.weight", "stage2.0.bias"}, {"stage1", "cls", "aux"}),
        (["stage?", "*.bias"], {"cls.weight", "aux.weight"}, {"stage1", "stage2"}),
        (
            ["stage1.1"],
            {f"{part}.{kind}" for part in ("stage1.0", "stage2.0", "cls", "aux") for kind in ("weight", "bias")},
            {"stage1.1"},
        ),
    ],
)
def test_patterns_freeze_parameters_and_the_modules_around_them(
    patterns: list[str], left: set[str], still: set[str]
) -> None:
    net = Net()
    names = freeze_layers(net, patterns, HEAD)
    assert trained(net) == left
    assert still <= set(names)
    assert all(any(name == part or name.startswith(f"{part}.") for part in still) for name in names)


def test_an_attribute_named_backbone_takes_precedence() -> None:
    net = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 1), "neck": nn.Conv2d(4, 4, 1), "head": nn.Conv2d(4, 2, 1)})
    freeze_layers(net, ["backbone"])
    assert trained(net) == {"neck.weight", "neck.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("patterns", "head_names", "message"),
    [
        (["stage3"], HEAD, "'stage3' fits no parameter of Net; did you mean stage.* It has stage1, stage2, cls, aux,"),
        (["backbone"], (), "Net has no head names; head_names must be among stage1"),
        (["backbone", "head"], HEAD, "leaves nothing of Net to train"),
        ("backbone", HEAD, r"expected a list, \[backbone\]"),
    ],
)
def test_a_pattern_without_match(patterns: list[str], head_names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze_layers(Net(), patterns, head_names)


@pytest.mark.parametrize("name", ["hrnetv2_w18_small_v1", "hrnetv2_w18_small_v1_ocr", "hrformer_t_ocr"])
def test_the_backbone_of_our_networks_is_all_but_the_head(name: str) -> None:
    net = create_model(name, 3)
    freeze_layers(net, ["backbone"], net.head_names)
    assert {name.split(".")[0] for name in trained(net)} == set(net.head_names)


def test_learning_rates_by_pattern_and_the_last_match_wins() -> None:
    net = Net()
    factors = {"backbone": 0.1, "stage2": 0.5, "*.bias": 2.0}
    groups = parameter_groups(net, head_lr_factor=10, head_names=HEAD, lr_factors=factors)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert {group["name"]: (group["lr_factor"], [names[id(p)] for p in group["params"]]) for group in groups} == {
        "backbone": (0.1, ["stage1.0.weight", "stage1.1.weight"]),
        "*.bias": (2.0, ["stage1.0.bias", "stage1.1.bias", "stage2.0.bias", "cls.bias", "aux.bias"]),
        "stage2": (0.5, ["stage2.0.weight"]),
        "head": (10, ["cls.weight", "aux.weight"]),
    }


def test_head_lr_factor_is_a_factor_like_others() -> None:
    net = Net()
    by_pattern = parameter_groups(net, head_names=HEAD, lr_factors={"head": 10})
    by_option = parameter_groups(net, head_lr_factor=10, head_names=HEAD)
    assert [group["params"] for group in by_pattern] == [group["params"] for group in by_option]
    assert [group["lr_factor"] for group in by_pattern] == [group["lr_factor"] for group in by_option]


def test_an_attribute_named_network_is_not_the_whole() -> None:
    net = nn.ModuleDict({"network": nn.Conv2d(3, 4, 1, bias=False), "cls": nn.Conv2d(4, 2, 1, bias=False)})
    groups = parameter_groups(net, lr_factors={"network": 0.1})
    assert [(group["lr_factor"], len(group["params"])) for group in groups] == [(0.1, 1), (1.0, 1)]


def test_head_names_take_precedence_over_an_attribute_named_head() -> None:
    net = nn.ModuleDict({part: nn.Conv2d(3, 3, 1, bias=False) for part in ("backbone", "decoder", "head")})
    groups = parameter_groups(net, head_lr_factor=10, head_names=["decoder", "head"])
    assert [(group["name"], len(group["params"])) for group in groups] == [("backbone", 1), ("head", 2)]


def test_frozen_parameters_are_in_no_group() -> None:
    net = Net()
    freeze_layers(net, ["backbone"], HEAD)
    (group,) = parameter_groups(net)
    assert len(group["params"]) == 4
    with pytest.raises(ConfigError, match="rate of stage1 is for no parameter: all are frozen"):
        parameter_groups(net, head_names=HEAD, lr_factors={"stage1": 0.1})


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_out_of_range(factor: float) -> None:
    with pytest.raises(ConfigError, match=r"lr_factors stage1 is .*expected a number above 0"):
        parameter_groups(Net(), lr_factors={"stage1": factor})
