"""The networks against the published numbers and a plain second implementation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.errors import ConfigError
from hrseg.models import MODELS, HRNetV2, HRNetVariant, Segmenter, V2Head, create_model
from hrseg.models.registry import FAMILIES
from hrseg.utils.upsample import upsample
from tests.networks import bytes_kept
from tests.references.hrnet_keys import SIZES, random_weights, segmentation_shapes
from tests.references.hrnet_plain import enlarge, hrnet_plain

# parameters with 19 classes, of the head alone, and keys of the state dict: counted on the official code
OFFICIAL_COUNTS = {
    "hrnetv2_w18_small_v1": (1_540_819, 62_899, 435),
    "hrnetv2_w18_small_v2": (3_939_579, 78_859, 873),
    "hrnetv2_w18": (9_641_119, 78_859, 1839),
    "hrnetv2_w30": (26_024_695, 212_419, 1839),
    "hrnetv2_w32": (29_546_515, 240_979, 1839),
    "hrnetv2_w40": (45_894_435, 373_219, 1839),
    "hrnetv2_w44": (55_424_779, 450_139, 1839),
    "hrnetv2_w48": (65_859_379, 534_259, 1839),
    "hrnetv2_w64": (116_640_339, 942_739, 1839),
}
# multiply-adds in 10^9 at 1024x2048, and what the papers print: the same divided by 2^30
OFFICIAL_MULTIPLY_ADDS = {
    "hrnetv2_w18_small_v1": (33.4, 31.1),
    "hrnetv2_w18_small_v2": (76.9, 71.6),
    "hrnetv2_w18": (147.4, None),
    "hrnetv2_w32": (361.2, None),
    "hrnetv2_w40": (535.4, None),  # the paper's 493.2 agrees with no count of the official code
    "hrnetv2_w48": (747.5, 696.2),
}
SMALL = "hrnetv2_w18_small_v1"
TINY = HRNetVariant(4, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=4)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@cache
def on_meta(name: str, num_classes: int = 19) -> HRNetV2:
    """A network on the device "meta"; shared by the tests, not to be changed."""
    with torch.device("meta"):
        network = create_model(name, num_classes=num_classes)
    assert isinstance(network, HRNetV2)
    return network.eval()


def loaded(name: str, **arguments: object) -> tuple[Segmenter, dict[str, Tensor]]:
    """A network in evaluation mode with random weights, and the weights."""
    network = create_model(name, **arguments)  # type: ignore[arg-type]
    weights = random_weights(segmentation_shapes(SIZES[name], network.num_classes))
    network.load_state_dict(weights)
    return network.eval(), weights


@pytest.mark.parametrize("name", OFFICIAL_COUNTS)
@pytest.mark.parametrize("num_classes", [19, 20, 59, 60])
def test_counts(name: str, num_classes: int) -> None:
    total, head, entries = OFFICIAL_COUNTS[name]
    more = (num_classes - 19) * (15 * SIZES[name].width + 1)
    network = on_meta(name)
    with torch.device("meta"):
        last_layer = V2Head(network.widths, num_classes, align_corners=False)
    backbone = parameters(network) - parameters(network.last_layer)
    assert parameters(last_layer) == head + more
    assert backbone + parameters(last_layer) == total + more
    assert len(network.state_dict()) == entries


@pytest.mark.parametrize(
    ("num_classes", "number"), [(19, 65_859_379), (20, 65_860_100), (59, 65_888_219), (60, 65_888_940)]
)
def test_counts_of_w48(num_classes: int, number: int) -> None:
    network = on_meta("hrnetv2_w48", num_classes)
    assert parameters(network) == number
    assert len(network.state_dict()) == 1839


def test_counts_of_layers() -> None:
    modules = list(on_meta("hrnetv2_w48").modules())
    assert sum(isinstance(module, nn.Conv2d) for module in modules) == 307
    assert sum(isinstance(module, nn.BatchNorm2d) for module in modules) == 306


def test_every_size_is_counted() -> None:
    assert set(OFFICIAL_COUNTS) == set(FAMILIES["hrnetv2_SIZE"].networks) == set(SIZES)


@pytest.mark.parametrize("name", OFFICIAL_MULTIPLY_ADDS)
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    giga, gibi = OFFICIAL_MULTIPLY_ADDS[name]
    multiply_adds = MODELS[name].multiply_adds
    assert multiply_adds / 1e9 == pytest.approx(giga, abs=0.05)
    assert gibi is None or multiply_adds / 2**30 == pytest.approx(gibi, abs=0.05)


@pytest.mark.parametrize("name", SIZES)
def test_official_names_and_shapes(name: str) -> None:
    found = {key: tuple(value.shape) for key, value in on_meta(name).state_dict().items()}
    assert found == segmentation_shapes(SIZES[name], num_classes=19)


@pytest.mark.parametrize("fuse_mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (33, 47), (97, 65)])
def test_equals_the_plain_implementation(fuse_mode: str, align_corners: bool, size: tuple[int, int]) -> None:
    network, weights = loaded(SMALL, fuse_mode=fuse_mode, align_corners=align_corners)
    _compare(network.double(), weights, size, fuse_mode, align_corners, tolerance=1e-10)


@pytest.mark.parametrize("name", ["hrnetv2_w18_small_v2", "hrnetv2_w18"])
def test_deeper_networks_equal_the_plain_implementation(name: str) -> None:
    network, weights = loaded(name)
    _compare(network.double(), weights, (65, 97), "bilinear", False, tolerance=1e-10)


def test_float32_is_close_to_the_plain_implementation() -> None:
    network, weights = loaded("hrnetv2_w18")
    _compare(network, weights, (71, 64), "bilinear", False, tolerance=1e-5)


def _compare(
    network: Segmenter,
    weights: dict[str, Tensor],
    size: tuple[int, int],
    fuse_mode: str,
    align_corners: bool,
    tolerance: float,
) -> None:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images_before = images.clone()
    dtype = network.get_parameter("conv1.weight").dtype
    with torch.no_grad():
        expected_maps, expected = hrnet_plain(images, weights, fuse_mode, align_corners)
        maps = network.features(images.to(dtype))
        out = network.outputs(images.to(dtype))["out"]
        logits = network(images.to(dtype))
    assert torch.equal(images, images_before)
    full = enlarge(expected, size, "bilinear", align_corners)
    for ours, theirs in zip((*maps, out, logits), (*expected_maps, expected, full), strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_gradients_equal_those_of_the_plain_implementation() -> None:
    network, weights = loaded(SMALL)
    network = network.double()
    images = torch.randn(1, 3, 45, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    probe = torch.randn(1, 19, 12, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    leaves = {name: value.double().requires_grad_(value.ndim > 0) for name, value in weights.items()}
    (hrnet_plain(images, leaves, "bilinear", False)[1] * probe).sum().backward()
    (network.outputs(images)["out"] * probe).sum().backward()
    for name, parameter in network.named_parameters():
        expected = leaves[name].grad
        assert parameter.grad is not None
        assert expected is not None
        assert (parameter.grad - expected).abs().max() <= 1e-9 * max(expected.abs().max(), 1), name


def test_nearest_equals_the_official_classifiers_upsampling() -> None:
    maps = torch.randn(1, 4, 6, 10)
    for factor in (2, 4, 8):
        upsampled = nn.Upsample(scale_factor=factor, mode="nearest")(maps)
        assert torch.equal(upsample(maps, upsampled.shape[-2:], False, "nearest"), upsampled)


def test_align_corners_reaches_backbone_head_and_logits() -> None:
    maps = torch.randn(1, 2, 3, 4)
    for align_corners in (False, True):
        expected = F.interpolate(maps, size=(7, 9), mode="bilinear", align_corners=align_corners)
        assert torch.equal(upsample(maps, (7, 9), align_corners), expected)


@pytest.mark.parametrize("size", [(1, 1), (16, 24), (31, 64), (32, 32), (33, 47), (63, 64), (97, 65), (100, 35)])
def test_any_size(size: tuple[int, int]) -> None:
    network = create_model(SMALL, num_classes=5).eval()
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        assert network(images).shape == (1, 5, *size)
        shapes = [tuple(x.shape[1:]) for x in network.features(images)]
    strides = (4, 8, 16, 32)
    assert shapes == [(4 * stride, -(-size[0] // stride), -(-size[1] // stride)) for stride in strides]


@pytest.mark.parametrize("in_channels", [1, 4])
def test_in_channels(in_channels: int) -> None:
    network = create_model(SMALL, in_channels=in_channels).eval()
    assert network(torch.randn(1, in_channels, 40, 40)).shape == (1, 19, 40, 40)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(1, 3, 0, 64),
            r"\(1, 3, 0, 64\); expected \(batch, 3, height, width\), height and width from 1",
        ),
        (torch.zeros(1, 4, 64, 64), r"\(1, 4, 64, 64\); expected \(batch, 3,"),
        (torch.zeros(3, 64, 64), r"\(3, 64, 64\); expected \(batch, 3,"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "torch.uint8; expected float: .* normalise"),
    ],
)
def test_wrong_images(images: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        create_model(SMALL)(images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fuse_mode": "cubic"}, "fuse_mode is 'cubic'; expected bilinear or nearest"),
        ({"num_classes": 0}, "num_classes is 0; expected a number from 1"),
        ({"num_classes": "19"}, "num_classes is '19'; expected a number from 1"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"align_corners": "false"}, "align_corners is 'false'; expected true or false"),
        ({"bn_momentum": 0.0}, "bn_momentum is 0.0; expected above 0 and at most 1"),
        ({"init": "xavier"}, "init is 'xavier'; expected official or kaiming"),
        ({"checkpoint_stages": [4, 5]}, "checkpoint_stages is .* out of 1, 2, 3, 4"),
        ({"checkpoint_stages": True}, "checkpoint_stages is True"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model(SMALL, **arguments)  # type: ignore[arg-type]


def test_official_initialisation() -> None:
    network = create_model(SMALL, init="official")
    weights = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.001, rel=0.01)
    assert abs(weights.mean().item()) < 1e-5
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
            assert module.momentum == 0.01


def test_kaiming_initialisation_keeps_activations_alive() -> None:
    torch.manual_seed(0)
    network = create_model(SMALL, init="kaiming", bn_momentum=0.1)
    logits = network(torch.randn(4, 3, 64, 64))
    assert 0.3 < logits.std().item() < 3
    assert all(module.momentum == 0.1 for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.1)
            assert module.bias is None or (module.bias == 0).all()


def train_step(forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    torch.manual_seed(5)
    logits = forward(images)
    loss: Tensor = (logits * torch.randn(logits.shape, dtype=logits.dtype)).mean()
    loss.backward()
    return loss


@pytest.mark.parametrize("stages", [[3], (1, 2, 3, 4)])
def test_checkpointing_changes_neither_gradients_nor_statistics(stages: Sequence[int]) -> None:
    torch.manual_seed(0)
    plain = HRNetV2(TINY, init="kaiming", bn_momentum=0.3).double()
    saving = HRNetV2(TINY, init="kaiming", bn_momentum=0.3, checkpoint_stages=stages).double()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    for _ in range(2):
        assert torch.allclose(train_step(plain, images), train_step(saving, images), rtol=1e-12)
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).abs().max() <= 1e-10 * max(theirs.grad.abs().max(), 1e-3)
    for (name, ours), theirs in zip(saving.named_buffers(), plain.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12), name
    assert saving.get_buffer("stage4.0.branches.0.0.bn1.num_batches_tracked") == 2


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    def kept(stages: list[int]) -> int:
        return bytes_kept(lambda: create_model(SMALL, checkpoint_stages=stages)(torch.randn(2, 3, 64, 64)))

    everything, less, least = kept([]), kept([4]), kept([1, 2, 3, 4])
    assert least < less < everything
    assert least < 0.6 * everything


def test_frozen_batch_norm_stays_frozen_under_checkpointing() -> None:
    network = create_model(SMALL, checkpoint_stages=[1, 2, 3, 4])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before = copy.deepcopy(dict(network.named_buffers()))
    train_step(network, torch.randn(1, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
