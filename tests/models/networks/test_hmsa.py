"""Hierarchical multi-scale attention against published counts and a plain second implementation."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hrseg.errors import ConfigError
from hrseg.models import VARIANTS, HRNetVariant, outputs_of
from hrseg.models.networks.hmsa import HRNetV2OCRMultiScale
from tests.networks import assert_close, assert_same_gradients, assert_same_outputs, exported, traced
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
    """Logits, auxiliary logits and attention of one scale at its own size, by the plain implementations."""
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
    # the inputs of the last convolution: its outputs with identity weights
    width = w["cls_head.weight"].shape[1]
    identity = {"cls_head.weight": torch.eye(width).view(width, width, 1, 1), "cls_head.bias": torch.zeros(width)}
    x, _ = ocr_plain(maps, w | identity, align)
    for index in (0, 1):
        x = F.conv2d(x, w[f"scale_attn.conv{index}.weight"], padding=1)
        mean, var, gain, shift = (
            w[f"scale_attn.bn{index}.{e}"].view(1, -1, 1, 1) for e in ("running_mean", "running_var", "weight", "bias")
        )
        x = ((x - mean) / (var + 1e-5).sqrt() * gain + shift).clamp(min=0)
    attention = 1 / (1 + (-F.conv2d(x, w["scale_attn.conv2.weight"])).exp())
    return tuple(enlarge(y, size, "bilinear", align) for y in (out, aux, attention))  # type: ignore[return-value]


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


def test_half_size_updates_running_statistics_first() -> None:
    network, images = tiny().train(), torch.randn(2, 3, 64, 96, dtype=torch.float64)
    backbone = copy.deepcopy(network)
    network.outputs(images)
    half = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
    for scaled in (half, images):
        backbone.features(scaled)
    torch.testing.assert_close(network.bn1.running_mean, backbone.bn1.running_mean)
    torch.testing.assert_close(network.bn1.running_var, backbone.bn1.running_var)
    backbone.features(half)
    assert not torch.allclose(network.bn1.running_mean, backbone.bn1.running_mean)


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
def test_equals_the_plain_implementation(scales: list[float], align_corners: bool) -> None:
    network = tiny(scales=scales, align_corners=align_corners)
    images = torch.randn(1, 3, 64, 75, dtype=torch.float64)
    with torch.no_grad():
        outputs = network.outputs(images)
        out, aux = written_out(images, network.state_dict(), scales, align_corners)
        torch.testing.assert_close(outputs["out"], out, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(outputs["aux"], aux, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(network(images), out, rtol=1e-10, atol=1e-10)
    assert set(outputs) == {"out", "aux"}


def test_training_outputs_full_and_half_size_combined_and_alone() -> None:
    network = tiny(scales=[1.0, 2.0])
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    weights = network.state_dict()
    full, _, _ = one_scale(images, weights, 1.0, False)
    half, _, _ = one_scale(images, weights, 0.5, False)
    joint, _ = written_out(images, weights, [1.0, 0.5], False)
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # keeps the running statistics, so that results are comparable
    outputs = network.outputs(images)
    assert set(outputs) == {"out", "aux", "out_1_0", "out_0_5"}
    torch.testing.assert_close(outputs["out"], joint, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outputs["out_1_0"], full, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outputs["out_0_5"], enlarge(half, (64, 96), "bilinear", False), rtol=1e-10, atol=1e-10)
    outputs["out"].square().mean().backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if name.startswith("scale_attn"))


@pytest.mark.parametrize("scales", [[], [0.5], [0.0, 1.0], "1.0"])
def test_scales_without_1_or_out_of_range(scales: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"scales is .*; expected a list of numbers from 0.01 to below 100 with 1 among them"
    ):
        tiny(scales=scales)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_tiny_images(size: tuple[int, int]) -> None:
    network = tiny(scales=[0.25, 0.5, 1.0]).eval()
    images = torch.randn(1, 3, *size, dtype=network.conv1.weight.dtype)
    with torch.inference_mode():
        assert network(images).shape == (1, network.num_classes, *size)


def sizes_and_images(network: HRNetV2OCRMultiScale, images: Tensor) -> list[Tensor]:
    """The inputs of the backbone, scale by scale."""
    seen: list[Tensor] = []
    handle = network.conv1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        network(images)
    handle.remove()
    return seen


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(128, 131), (143, 150), (209, 180)])
def test_images_are_scaled_as_in_the_official_code(size: tuple[int, int], align_corners: bool) -> None:
    scales = [2.0, 1.75, 1.5, 1.25, 1.1, 1.0, 0.75, 0.7, 0.5, 0.25]
    network = short(tiny(scales=scales, align_corners=align_corners).float())
    images = torch.randn(1, 3, *size)
    for scale, ours in zip(scales, sizes_and_images(network, images), strict=True):
        official = F.interpolate(
            images, scale_factor=scale, mode="bilinear", align_corners=align_corners, recompute_scale_factor=True
        )
        assert torch.equal(ours, images if scale == 1 else official), scale


# deployment


pytestmark = pytest.mark.usefixtures("fresh_compiler")


def short(network: HRNetV2OCRMultiScale) -> HRNetV2OCRMultiScale:
    """With a short backbone, since compilers are slow; test_deployment.py compiles the whole backbone."""
    network.stage2 = network.stage3 = network.stage4 = nn.Sequential()
    return network


def test_compiles_as_one_graph() -> None:
    network = tiny(scales=[0.5, 1.0]).float()
    assert_same_outputs(torch.compile(network, fullgraph=True, backend="eager"), network, (2, 3, 65, 97))


@pytest.mark.slow
def test_trains_compiled_as_one_graph() -> None:
    network = tiny(checkpoint_stages=[1, 4]).train()
    twin = copy.deepcopy(network)
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    torch.compile(network, fullgraph=True, backend="aot_eager")(images).square().mean().backward()
    twin(images).square().mean().backward()
    assert_same_gradients(network, twin, rtol=1e-6, atol=1e-9)


# from 33 pixels at the smallest scale: torch.export specialises a side of 1, which 32 have at stride 32
@pytest.mark.parametrize(
    ("scales", "smallest"),
    [([0.5, 1.0, 2.0], 66), pytest.param([0.25, 1.0, 1.25, 1.5], 132, marks=pytest.mark.slow)],
)
def test_exports_with_dynamic_sizes(scales: list[float], smallest: int) -> None:
    network = short(tiny(scales=scales).float())
    module = exported(network, (2, 3, smallest + 30, smallest + 62), smallest)
    for batch, height, width in ((1, 30, 62), (3, 31, 1), (1, 0, 75)):
        assert_same_outputs(module, network, (batch, 3, smallest + height, smallest + width))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated, but still used by many runtimes
def test_traces_to_a_graph_for_any_size() -> None:
    network = short(tiny(scales=[0.25, 0.7, 1.0, 1.5]).float())
    module = traced(network, (1, 3, 128, 160))
    assert_same_outputs(module, network, (1, 3, 128, 160), (2, 3, 190, 131), (1, 3, 129, 143))


def test_bfloat16_autocast() -> None:
    network = tiny(scales=[0.5, 1.0]).float()
    images = torch.randn(2, 3, 65, 67)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network.outputs(images)["out"].dtype == torch.bfloat16
        logits = outputs_of(network, images)["out"]
    assert logits.dtype == torch.float32
    with torch.no_grad():
        assert_close(logits, network(images), 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        sum(x.float().square().mean() for x in network.train().outputs(images).values()).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


def test_channels_last_keeps_results_and_format() -> None:
    network = tiny(scales=[0.5, 1.0, 1.5]).float()
    images = torch.randn(2, 3, 65, 67)
    formats: dict[str, bool] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, out: Any) -> None:
            if isinstance(out, Tensor):
                formats[name] = out.is_contiguous(memory_format=torch.channels_last)

        return hook

    with torch.no_grad():
        expected = network(images)
        network.to(memory_format=torch.channels_last)
        for name, module in network.named_modules():
            module.register_forward_hook(note(name))
        for given in (images, images.to(memory_format=torch.channels_last)):
            assert_close(network(given), expected, 1e-4)
            assert formats
            assert all(formats.values()), [name for name, last in formats.items() if not last]


def test_copies_pickles_and_files(tmp_path: Path) -> None:
    network = tiny(scales=[0.5, 1.0]).float()
    images = torch.randn(1, 3, 65, 64)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    loaded = tiny(scales=[0.5, 1.0]).float()
    for parameter in loaded.parameters():
        nn.init.zeros_(parameter)
    loaded.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), loaded):
            assert torch.equal(twin(images), network(images))


def test_checkpointing_changes_neither_gradients_nor_statistics() -> None:
    plain, saving = tiny().train(), tiny(checkpoint_stages=[1, 2, 3, 4]).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 67, dtype=torch.float64)
    for network in (plain, saving):
        sum(x.square().mean() for x in network.outputs(images).values()).backward()
    assert_same_gradients(saving, plain)
    for mine, other in zip(saving.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-8, atol=1e-12)
