"""Hierarchical multi-scale attention against published counts and the rule written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrseg.errors import ConfigError
from hrseg.models import VARIANTS, HRNetVariant
from hrseg.models.multiscale import HRNetV2OCRMultiScale
from tests.references.hrnet_plain import enlarge, hrnet_plain
from tests.references.ocr_plain import ocr_plain

TINY = HRNetVariant(4, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=4)


def tiny(**arguments: Any) -> HRNetV2OCRMultiScale:
    torch.manual_seed(0)
    given = {"num_classes": 5, "mid_channels": 12, "key_channels": 6, "dropout": 0.0, "init": "kaiming", **arguments}
    network = HRNetV2OCRMultiScale(TINY, **given)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.double().eval()


def one_scale(images: Tensor, w: dict[str, Tensor], scale: float, align: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, auxiliary logits and share of one scale at its own size, of the networks written out elsewhere."""
    size = int(images.shape[2] * scale), int(images.shape[3] * scale)
    scaled = enlarge(images, size, "bilinear", align)
    plain_head = {
        "last_layer.0.weight": torch.zeros(60, 60, 1, 1),
        **{f"last_layer.1.{e}": torch.ones(60) for e in ("weight", "bias", "running_mean", "running_var")},
        "last_layer.3.weight": torch.zeros(1, 60, 1, 1),
        "last_layer.3.bias": torch.zeros(1),
    }
    maps, _ = hrnet_plain(scaled, w | plain_head, "bilinear", align)
    out, aux = ocr_plain(maps, w, align)
    # the features that the last convolution sees, by taking it for the identity
    width = w["cls_head.weight"].shape[1]
    identity = {"cls_head.weight": torch.eye(width).view(width, width, 1, 1), "cls_head.bias": torch.zeros(width)}
    x, _ = ocr_plain(maps, w | identity, align)
    for index in (0, 1):
        x = F.conv2d(x, w[f"scale_attn.conv{index}.weight"], padding=1)
        mean, var, gain, shift = (
            w[f"scale_attn.bn{index}.{e}"].view(1, -1, 1, 1) for e in ("running_mean", "running_var", "weight", "bias")
        )
        x = ((x - mean) / (var + 1e-5).sqrt() * gain + shift).clamp(min=0)
    share = 1 / (1 + (-F.conv2d(x, w["scale_attn.conv2.weight"])).exp())
    return tuple(enlarge(y, size, "bilinear", align) for y in (out, aux, share))  # type: ignore[return-value]


def written_out(images: Tensor, w: dict[str, Tensor], scales: list[float], align: bool) -> tuple[Tensor, Tensor]:
    results: list[Tensor] = []
    for scale in sorted(scales, reverse=True):
        *both, share = one_scale(images, w, scale, align)
        if not results:
            results = both
        elif scale >= 1:
            results = [
                share * new + (1 - share) * enlarge(old, new.shape[-2:], "bilinear", align)
                for new, old in zip(both, results, strict=True)
            ]
        else:
            large = enlarge(share, results[0].shape[-2:], "bilinear", align)
            results = [
                enlarge(share * new, old.shape[-2:], "bilinear", align) + (1 - large) * old
                for new, old in zip(both, results, strict=True)
            ]
    return results[0], results[1]


def test_counts_of_the_official_network() -> None:
    with torch.device("meta"):
        network = HRNetV2OCRMultiScale(VARIANTS["w48"])
    assert sum(p.numel() for p in network.parameters()) == 72_143_430
    assert len(network.state_dict()) == 1903
    assert [name for name in network.state_dict() if name.startswith("scale_attn") and name.endswith("weight")] == [
        f"scale_attn.{name}.weight" for name in ("conv0", "bn0", "conv1", "bn1", "conv2")
    ]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("scales", [[1.0], [0.5, 1.0], [2.0, 1.0, 0.5], [0.75, 1.0, 1.5]])
def test_equals_the_rule_written_out(scales: list[float], align_corners: bool) -> None:
    network = tiny(scales=scales, align_corners=align_corners)
    images = torch.randn(2, 3, 64, 75, dtype=torch.float64)
    with torch.no_grad():
        outputs = network.outputs(images)
        out, aux = written_out(images, network.state_dict(), scales, align_corners)
        torch.testing.assert_close(outputs["out"], out, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(outputs["aux"], aux, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(network(images), out, rtol=1e-10, atol=1e-10)
    assert set(outputs) == {"out", "aux"}


def test_training_sees_full_and_half_size_and_each_by_itself() -> None:
    network = tiny(scales=[1.0, 2.0])
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    weights = network.state_dict()
    full, _, _ = one_scale(images, weights, 1.0, False)
    half, _, _ = one_scale(images, weights, 0.5, False)
    joint, _ = written_out(images, weights, [1.0, 0.5], False)
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # statistics as they are, so that the results compare
    outputs = network.outputs(images)
    assert set(outputs) == {"out", "aux", "out_1_0", "out_0_5"}
    torch.testing.assert_close(outputs["out"], joint, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outputs["out_1_0"], full, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outputs["out_0_5"], enlarge(half, (64, 96), "bilinear", False), rtol=1e-10, atol=1e-10)
    outputs["out"].square().mean().backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if name.startswith("scale_attn"))


@pytest.mark.parametrize("scales", [[], [0.5], [0.0, 1.0], "1.0"])
def test_scales_without_1_or_out_of_range(scales: Any) -> None:
    with pytest.raises(ConfigError, match=r"scales is .*; expected a list of numbers above 0 with 1 among them"):
        tiny(scales=scales)


def test_compiles_copies_and_runs_in_half_precision() -> None:
    network = tiny(scales=[0.5, 1.0]).float()
    images = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        expected = network(images)
        assert torch.equal(copy.deepcopy(network)(images), expected)
        torch.compiler.reset()
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(images), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert network(images).shape == expected.shape
