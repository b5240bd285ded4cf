"""Arguments of networks, losses and optimisers outside their range: one line that names the argument."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from hrseg.errors import ConfigError, HrsegError
from hrseg.losses import (
    CrossEntropyLoss,
    ModuleLoss,
    OhemCrossEntropyLoss,
    RMILoss,
    SegmentationLoss,
    SmpLoss,
    SumLoss,
    WeightedOutputsLoss,
)
from hrseg.models import HRFormerVariant, HRNetVariant, create_model
from hrseg.models.registry import BUILDERS
from hrseg.optim.muon import Muon

NAN, INF, HUGE = math.nan, math.inf, 10**18
NO_WHOLE = [0, -1, 0.5, NAN, INF, HUGE, "3", [3], True]
NO_SHARE = [-0.1, 1.0, NAN, INF, HUGE, "0.1", [0.1], True]
NO_FLAG = [0, 1, "false", 0.5]

# values out of range of every argument of the networks; None stands for one that any value fits
NETWORKS: dict[str, list[Any]] = {
    "num_classes": [*NO_WHOLE, None],
    "in_channels": [*NO_WHOLE, None],
    "fuse_mode": ["cubic", 0, ["nearest"], None],
    "align_corners": [*NO_FLAG, None],
    "bn_momentum": [0, -0.1, 1.1, NAN, INF, "0.1", True, None],
    "init": ["xavier", 0, None],
    "checkpoint_stages": [[0], [5], [1.5], ["1"], [[1]], 4, "4", None],
    "head_kernel": [0, -1, 2, 33, 1.0, NAN, "3", None],
    "channel_order": ["bgra", 0, None],
    "mid_channels": [*NO_WHOLE, None],
    "key_channels": [*NO_WHOLE, None],
    "dropout": [*NO_SHARE, None],
    "inner_bias": [*NO_FLAG, None],
    "aux_kernel": [0, -1, 2, 33, 1.0, NAN, "3", None],
    "aux_channels": NO_WHOLE,
    "negative_slope": [*NO_SHARE, None],
    "scales": [[], [0.5], [0, 1], [-1, 1], [NAN, 1], [INF, 1], [1, 1e9], ["1", 1], 1, "1", None],
    "window_size": [*NO_WHOLE, None],
    "drop_path": [*NO_SHARE, None],
}


def network_with(argument: str) -> str:
    """The first network that takes an argument, which is the smallest of its family."""
    return next(name for name, builder in BUILDERS.items() if argument in inspect.signature(builder).parameters)


def test_every_argument_of_every_network_is_tried() -> None:
    known = {name for builder in BUILDERS.values() for name in inspect.signature(builder).parameters}
    assert known == set(NETWORKS)


@pytest.mark.parametrize("argument", NETWORKS)
def test_networks(argument: str) -> None:
    with torch.device("meta"):
        for value in NETWORKS[argument]:
            if argument == "num_classes" and value is None:
                continue  # not given
            with pytest.raises(ConfigError, match=rf"^{argument} is .*; expected ") as caught:
                create_model(network_with(argument), **{argument: value})
            assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("build", "values"),
    [
        (lambda value: HRNetVariant(value), {"width": [*NO_WHOLE, None]}),
        (lambda value: HRNetVariant(16, blocks=value), {"blocks": [*NO_WHOLE, None]}),
        (lambda value: HRNetVariant(16, layer1_blocks=value), {"layer1_blocks": [*NO_WHOLE, None]}),
        (lambda value: HRNetVariant(16, layer1_width=value), {"layer1_width": [*NO_WHOLE, None]}),
        (lambda value: HRNetVariant(16, modules=value), {"modules": [(1, 1), (1, 1, -1), (1, 1, HUGE), 3, "111"]}),
        (lambda value: HRNetVariant(16, block=value), {"block": ["BasicBlock", None, 3]}),
        (lambda value: HRFormerVariant(value, 1, (1, 1, 1)), {"width": [*NO_WHOLE, None]}),
        (lambda value: HRFormerVariant(18, value, (1, 1, 1)), {"heads": [*NO_WHOLE, 4]}),
    ],
)
def test_variants(build: Callable[[Any], Any], values: dict[str, list[Any]]) -> None:
    ((name, out_of_range),) = values.items()
    for value in out_of_range:
        with pytest.raises(ConfigError, match=rf"^{name} is .*; expected "):
            build(value)


NO_WEIGHTS = [[], [1.0, -1.0], [1.0, NAN], [1.0, INF], [1e39, 1.0], [0.0, 0.0], ["1", "2"], [None], "12", 3, [[1.0]]]
SHARED = {"ignore_index": [None, 0.5, NAN, "255", HUGE], "align_corners": [*NO_FLAG, None]}
OURS = CrossEntropyLoss()
LOSSES: dict[type[nn.Module], tuple[dict[str, Any], dict[str, list[Any]]]] = {
    CrossEntropyLoss: ({}, {"class_weights": NO_WEIGHTS, "divide_by": ["pixel", None, 1], **SHARED}),
    OhemCrossEntropyLoss: (
        {},
        {
            "threshold": [-0.1, 1.1, NAN, INF, "0.9", None, [0.9], True],
            "min_kept": [-1, 0.5, 1e5, NAN, INF, "9", None],
            "class_weights": NO_WEIGHTS,
            **SHARED,
        },
    ),
    RMILoss: (
        {},
        {
            "num_classes": NO_WHOLE[:4],
            "radius": [*NO_WHOLE, None],
            "pooling": ["median", None, 3],
            "pool_size": [*NO_WHOLE, None],
            "bce_weight": [-0.1, 1.1, NAN, INF, "0.5", None],
            "alpha": [0, -1e-3, NAN, INF, "1e-3", None],
            **SHARED,
        },
    ),
    SmpLoss: (
        {"name": "dice"},
        {
            "name": ["dise", 3, None],
            "options": [{"smoth": 1.0}, {"smooth": NAN}, {"smooth": INF}, [1], "smooth", {"class_weights": [-1.0]}],
            **SHARED,
        },
    ),
    SumLoss: (
        {"losses": [OURS, OURS]},
        {
            "losses": [[], OURS, None, [OURS, "dice"], [OURS, CrossEntropyLoss], {"out": OURS}],
            "weights": [[1.0], [1.0, -1.0], [1.0, NAN], [1.0, INF], [0.0, 0.0], "11", 3],
            **SHARED,
        },
    ),
    WeightedOutputsLoss: (
        {"losses": {"out": OURS}},
        {
            "losses": [{}, OURS, None, {"out": "dice"}, {"out": CrossEntropyLoss}, [OURS]],
            "weights": [{"aux": 1.0}, {"out": -1.0}, {"out": NAN}, {"out": INF}, {"out": "1"}, {"out": None}, [1.0], 3],
        },
    ),
    ModuleLoss: ({"module": nn.CrossEntropyLoss()}, {"module": [None, "ce", nn.CrossEntropyLoss], **SHARED}),
}


def test_every_argument_of_every_loss_is_tried() -> None:
    for loss, (_, tried) in LOSSES.items():
        assert set(tried) == set(inspect.signature(loss).parameters), loss.__name__
    ours = {kind for kind in SegmentationLoss.__subclasses__() if kind.__module__.startswith("hrseg.")}
    assert ours | {WeightedOutputsLoss} == set(LOSSES)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_losses(loss: type[nn.Module]) -> None:
    fitting, tried = LOSSES[loss]
    loss(**fitting)
    for argument, values in tried.items():
        for value in values:
            with pytest.raises(HrsegError) as caught:
                loss(**{**fitting, argument: value})
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 400


def test_class_weights_may_be_an_array_or_a_tensor() -> None:
    weights = torch.tensor([0.5, 1.0, 2.0])
    for given in (weights, weights.numpy(), weights.tolist(), tuple(weights.tolist())):
        loss = CrossEntropyLoss(given)  # type: ignore[arg-type]
        assert loss.class_weights is not None
        assert torch.equal(loss.class_weights, weights)


def test_muon() -> None:
    parameters = [nn.Parameter(torch.zeros(2, 2))]
    for argument in ("lr", "eps", "weight_decay", "momentum"):
        for value in (-0.1, NAN, INF, "0.1", None, [0.1]):
            with pytest.raises(ConfigError, match=f"Muon: .*{argument}"):
                Muon(parameters, **{argument: value})
    for betas in ((0.9,), (0.9, 1.0), (0.9, NAN), 0.9, ("0.9", "0.9"), (0.9, 0.9, 0.9)):
        with pytest.raises(ConfigError, match=r"Muon: .*betas"):
            Muon(parameters, betas=betas)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "build",
    [
        partial(create_model, 18),
        partial(create_model, ["hrnetv2_w18"]),
        partial(create_model, "hrnetv2_w18_small_v1", weights=3),
        partial(create_model, "hrnetv2_w18_small_v1", weights=True),
    ],
)
def test_names_of_another_type(build: Callable[[], Any]) -> None:
    with pytest.raises(HrsegError, match=r"unknown model|weights is"):
        build()
