"""HRNetV1, HRNetV2p and the classifier, and what users do to them besides calling them."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hrseg.errors import ConfigError
from hrseg.models import VARIANTS, HRNetClassifier, HRNetV1, HRNetV2p, HRNetVariant, fold_batch_norm
from hrseg.models.networks.hrnet import HRNet
from tests.references.hrnet_keys import SIZES, classification_shapes, random_weights, segmentation_shapes, trunk_shapes
from tests.references.hrnet_plain import enlarge, hrnet_plain

# parameters and entries, counted on the official code
CLASSIFIER_COUNTS = {
    "w18_small_v1": (13_187_464, 552),
    "w18_small_v2": (15_597_464, 990),
    "w18": (21_299_004, 1956),
    "w30": (37_712_220, 1956),
    "w32": (41_232_680, 1956),
    "w40": (57_557_160, 1956),
    "w44": (67_064_984, 1956),
    "w48": (77_469_864, 1956),
    "w64": (128_059_944, 1956),
}
POSE_COUNTS = {"w32": 28_536_113, "w48": 63_595_745}  # 17 joints
TINY = HRNetVariant(8, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=4)
SMALL = VARIANTS["w18_small_v1"]
SMALL_SIZES = SIZES["hrnetv2_w18_small_v1"]


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """A network of shapes only."""
    with torch.device("meta"):
        return build()


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def tensors(output: Any) -> tuple[Tensor, ...]:
    """The output of any of the networks as a tuple."""
    return (output,) if isinstance(output, Tensor) else tuple(output.values())


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    for x, y in zip(tensors(ours), tensors(theirs), strict=True):
        assert x.shape == y.shape
        assert (x - y).abs().max() <= tolerance * y.abs().max()


def images_of(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# HRNetV1


@pytest.mark.parametrize("size", POSE_COUNTS)
def test_counts_of_the_pose_networks(size: str) -> None:
    network = on_meta(lambda: HRNetV1(VARIANTS[size], num_classes=17))
    assert parameters(network) == POSE_COUNTS[size]
    assert len(network.state_dict()) == 1754
    sizes = SIZES[f"hrnetv2_{size}"]
    expected = trunk_shapes(sizes) | {"final_layer.weight": (17, sizes.width, 1, 1), "final_layer.bias": (17,)}
    coarser = tuple(f"stage4.2.fuse_layers.{target}." for target in (1, 2, 3))
    assert shapes_of(network) == {name: shape for name, shape in expected.items() if not name.startswith(coarser)}


@pytest.mark.parametrize("fuse_mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_v1_is_a_convolution_on_the_finest_map(fuse_mode: str, align_corners: bool) -> None:
    network = HRNetV1(SMALL, num_classes=5, fuse_mode=fuse_mode, align_corners=align_corners)
    # the plain implementation makes all maps and the other head
    weights = random_weights(segmentation_shapes(SMALL_SIZES, 5))
    head = {"final_layer.weight": torch.randn(5, 16, 1, 1), "final_layer.bias": torch.randn(5)}
    network.load_state_dict({name: (weights | head)[name] for name in network.state_dict()})
    network.double().eval()
    images = images_of(2, 3, 45, 64)
    with torch.no_grad():
        (finest, *_), _ = hrnet_plain(images, weights, fuse_mode, align_corners)
        expected = torch.einsum("kc,bchw->bkhw", head["final_layer.weight"][:, :, 0, 0].double(), finest)
        expected += head["final_layer.bias"].double()[:, None, None]
        assert len(network.features(images)) == 1
        assert_close(network.features(images)[0], finest, 1e-10)
        assert_close(network.outputs(images)["out"], expected, 1e-10)
        assert_close(network(images), enlarge(expected, (45, 64), "bilinear", align_corners), 1e-10)


def test_v1_starts_as_the_pose_network() -> None:
    network = HRNetV1(SMALL, num_classes=17, init="official")
    assert network.head_names == ("final_layer",)
    weights = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.001, rel=0.01)
    assert (network.get_parameter("final_layer.bias") == 0).all()


# HRNetV2p


@pytest.mark.parametrize("size", ["w18_small_v1", "w18_small_v2"])
def test_names_and_shapes_of_v2p(size: str) -> None:
    sizes = SIZES[f"hrnetv2_{size}"]
    expected = trunk_shapes(sizes) | {
        "reduction_conv.0.weight": (256, 15 * sizes.width, 1, 1),
        "reduction_conv.0.bias": (256,),
    }
    for level in range(5):
        expected |= {f"fpn_conv.{level}.weight": (256, 256, 3, 3), f"fpn_conv.{level}.bias": (256,)}
    assert shapes_of(on_meta(lambda: HRNetV2p(VARIANTS[size]))) == expected


@pytest.mark.parametrize("size", [(128, 64), (141, 75), (61, 64)])
def test_v2p_is_a_pyramid_of_means(size: tuple[int, int]) -> None:
    network = HRNetV2p(SMALL).double().eval()
    weights = random_weights(segmentation_shapes(SMALL_SIZES, 5))
    network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("last_layer")}, strict=False)
    for convolution in (network.reduction_conv[0], *network.fpn_conv):
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        nn.init.normal_(convolution.bias)
    images = images_of(1, 3, *size)
    with torch.no_grad():
        maps, _ = hrnet_plain(images, weights, "nearest", False)
        height, width = maps[0].shape[2:]
        wide = torch.cat([enlarge(x, (height, width), "bilinear", False) for x in maps], 1)
        x = torch.einsum("oc,bchw->bohw", network.get_parameter("reduction_conv.0.weight")[:, :, 0, 0], wide)
        x += network.get_parameter("reduction_conv.0.bias")[:, None, None]
        pyramid = network(images)
        assert list(pyramid) == ["0", "1", "2", "3", "4"]
        for level, ours in enumerate(pyramid.values()):
            rows, columns, side = height // 2**level, width // 2**level, 2**level
            means = x[:, :, : rows * side, : columns * side].reshape(1, 256, rows, side, columns, side).mean((3, 5))
            weight = network.get_parameter(f"fpn_conv.{level}.weight")
            expected = F.conv2d(means, weight, network.get_parameter(f"fpn_conv.{level}.bias"), padding=1)
            assert ours.shape == (1, 256, rows, columns)
            assert_close(ours, expected, 1e-10)


def test_v2p_refuses_images_without_a_coarsest_map() -> None:
    network = HRNetV2p(TINY)
    with pytest.raises(ConfigError, match="height and width from 61"):
        network(torch.zeros(1, 3, 60, 64))
    assert network(torch.zeros(2, 3, 61, 61))["4"].shape == (2, 256, 1, 1)


@pytest.mark.parametrize("detector", ["FasterRCNN", "MaskRCNN"])
def test_v2p_trains_in_torchvision_detectors(detector: str) -> None:
    detection = pytest.importorskip("torchvision.models.detection", reason="torchvision is not installed")
    torch.manual_seed(0)
    backbone = HRNetV2p(TINY)
    few = {"rpn_post_nms_top_n_train": 20, "rpn_post_nms_top_n_test": 5, "box_batch_size_per_image": 4}
    model = getattr(detection, detector)(backbone, num_classes=3, min_size=64, max_size=96, **few)
    images = [torch.rand(3, 64, 80), torch.rand(3, 70, 64)]
    targets = []
    for image in images:
        masks = torch.zeros(2, *image.shape[1:], dtype=torch.uint8)
        masks[0, 5:40, 8:50] = 1
        masks[1, 20:60, 10:60] = 1
        boxes = torch.tensor([[8.0, 5.0, 50.0, 40.0], [10.0, 20.0, 60.0, 60.0]])
        targets.append({"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = model(images, targets)
    assert ("loss_mask" in losses) == (detector == "MaskRCNN")
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    before = backbone.conv1.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, backbone.conv1.weight)
    with torch.no_grad():
        for found in model.eval()(images):
            assert found["boxes"].shape == (len(found["scores"]), 4)


def test_v2p_starts_as_the_detectors() -> None:
    network = HRNetV2p(VARIANTS["w18_small_v2"])
    assert network.head_names == ("reduction_conv", "fpn_conv")
    for name, fan in (("reduction_conv.0", 270), ("fpn_conv.3", 256 * 9)):
        assert network.get_parameter(f"{name}.weight").std().item() == pytest.approx(fan**-0.5, rel=0.02)
        assert (network.get_parameter(f"{name}.bias") == 0).all()
    fan_out = 144 * 9
    weight = network.get_parameter("stage4.0.branches.3.0.conv1.weight")
    assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


# the classifier


@pytest.mark.parametrize("size", CLASSIFIER_COUNTS)
def test_counts_of_the_classifiers(size: str) -> None:
    shapes = classification_shapes(SIZES[f"hrnetv2_{size}"])
    learnt = (shape for name, shape in shapes.items() if name.endswith((".weight", ".bias")))
    assert (sum(map(math.prod, learnt)), len(shapes)) == CLASSIFIER_COUNTS[size]


# the others differ from the last of these only in their width
@pytest.mark.parametrize("size", ["w18_small_v1", "w18_small_v2", "w18"])
def test_counts_names_and_shapes_of_the_classifier(size: str) -> None:
    network = on_meta(lambda: HRNetClassifier(VARIANTS[size]))
    assert (parameters(network), len(network.state_dict())) == CLASSIFIER_COUNTS[size]
    assert shapes_of(network) == classification_shapes(SIZES[f"hrnetv2_{size}"])


@pytest.mark.parametrize(
    ("build", "size", "published"),
    [
        (lambda: HRNetClassifier(VARIANTS["w18_small_v1"]), (224, 224), 1.49),
        pytest.param(lambda: HRNetV1(VARIANTS["w32"], num_classes=17), (256, 192), 7.1, marks=pytest.mark.slow),
    ],
)
def test_published_multiply_adds(build: Callable[[], nn.Module], size: tuple[int, int], published: float) -> None:
    network = on_meta(build)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, *size, device="meta"))
    digits = 0.05 if published == 7.1 else 0.005
    assert counter.get_total_flops() / 2 / 2**30 == pytest.approx(published, abs=digits)


@pytest.mark.parametrize("size", ["w18_small_v1", "w18_small_v2"])
def test_names_and_logits_of_the_classifier_are_those_of_timm(size: str) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(f"hrnet_{size.removesuffix('_v1')}").double()
    weights = random_weights(classification_shapes(SIZES[f"hrnetv2_{size}"]))
    theirs.load_state_dict(weights)
    ours = HRNetClassifier(VARIANTS[size]).double()
    assert list(shapes_of(ours).items()) == list(shapes_of(theirs).items())
    ours.load_state_dict(weights)
    images = images_of(2, 3, 32, 64)
    for training in (False, True):
        with torch.no_grad():
            logits = ours.train(training)(images)
            assert logits.shape == (2, 1000)
            assert_close(logits, theirs.train(training)(images), 1e-10)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-10, atol=1e-12)


def test_classifier_takes_any_size_and_number_of_classes() -> None:
    network = HRNetClassifier(TINY, num_classes=7, in_channels=1).eval()
    for size in ((32, 32), (33, 47), (97, 65)):
        assert network(torch.randn(1, 1, *size)).shape == (1, 7)


def test_classifier_starts_as_the_official_one() -> None:
    network = HRNetClassifier(SMALL)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.momentum == 0.1
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[:, 0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_arguments_out_of_range() -> None:
    for build in (HRNetV1, HRNetClassifier):
        with pytest.raises(ConfigError, match="num_classes is 0; expected a number from 1"):
            build(TINY, num_classes=0)  # type: ignore[operator]
    for build in (HRNetV2p, HRNetClassifier):
        with pytest.raises(ConfigError, match="bn_momentum is 2; expected above 0"):
            build(TINY, bn_momentum=2)


# all of them


class NarrowV2p(HRNetV2p):
    """The pyramid with fewer channels, which most of the time goes into."""

    out_channels = 16


NETWORKS: dict[str, Callable[..., HRNet]] = {
    "v1": partial(HRNetV1, TINY, 5, init="kaiming", bn_momentum=0.5),
    "v2p": partial(NarrowV2p, TINY, bn_momentum=0.5),
    "classifier": partial(HRNetClassifier, TINY, 5, bn_momentum=0.5),
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@cache
def lively(name: str) -> HRNet:
    """In evaluation mode, with batch norms that have seen something."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(2, 3, 64, 61))
    return network.eval()


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> HRNet:
    return copy.deepcopy(lively(request.param))


@pytest.fixture
def short(network: HRNet) -> HRNet:
    """Without most of the trunk, which test_deployment.py takes through the same: compilers are slow."""
    network.stage2 = network.stage3 = nn.Sequential()
    if isinstance(network, HRNetV1):  # whose last module fuses in its own way
        last = network.get_submodule("stage4.0")
        last.branches = nn.ModuleList(nn.Identity() for _ in range(4))
    else:
        network.stage4 = nn.Sequential()
    return network


def test_compiles_as_one_graph(short: HRNet) -> None:
    images = torch.randn(2, 3, 61, 96)
    with torch.no_grad():
        assert_close(torch.compile(short, fullgraph=True, backend="eager")(images), short(images))


def test_exports_with_dynamic_sizes(short: HRNet) -> None:
    # torch.export treats a side of 1 as another case: of the coarsest branch, of the pyramid's coarsest map
    smallest = 125 if isinstance(short, HRNetV2p) else 33
    height, width = torch.export.Dim("height", min=smallest), torch.export.Dim("width", min=smallest)
    sizes = {0: torch.export.Dim("batch"), 2: height, 3: width}
    example = torch.randn(2, 3, smallest + 31, smallest + 63)
    module = torch.export.export(short, (example,), dynamic_shapes=(sizes,)).module()
    with torch.no_grad():
        for batch, more in ((1, (31, 63)), (3, (64, 32)), (1, (0, 14))):
            images = torch.randn(batch, 3, smallest + more[0], smallest + more[1])
            assert_close(module(images), short(images))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated, and still what many runtimes take
def test_traces_to_a_graph_for_any_size(short: HRNet) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = short

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return tensors(self.network(images))

    traced = torch.jit.trace(Flat().eval(), torch.randn(1, 3, 64, 96))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    restored = torch.jit.load(buffer)
    with torch.no_grad():
        for shape in ((1, 3, 64, 96), (2, 3, 97, 65), (1, 3, 61, 63)):
            images = torch.randn(shape)
            for ours, theirs in zip(restored(images), tensors(short(images)), strict=True):
                assert_close(ours, theirs)


def test_channels_last_gives_the_same_and_stays(network: HRNet) -> None:
    images = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        expected = network(images)
        network.to(memory_format=torch.channels_last)
        for given in (images, images.to(memory_format=torch.channels_last)):
            formats: list[bool] = []
            hooks = [
                module.register_forward_hook(
                    lambda _, __, out, formats=formats: formats.append(
                        not isinstance(out, Tensor)
                        or out.ndim < 4
                        or out.is_contiguous(memory_format=torch.channels_last)
                    )
                )
                for module in network.modules()
            ]
            assert_close(network(given), expected)
            assert formats
            assert all(formats)
            for hook in hooks:
                hook.remove()


def test_bfloat16_autocast(network: HRNet) -> None:
    images = torch.randn(2, 3, 61, 63)
    with torch.no_grad():
        expected = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            for ours, theirs in zip(tensors(network(images)), tensors(expected), strict=True):
                assert ours.dtype == torch.bfloat16
                assert_close(ours.float(), theirs, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        sum(x.float().square().mean() for x in tensors(network.train()(images))).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


def test_copies_pickles_and_files(network: HRNet, tmp_path: Path) -> None:
    images = torch.randn(1, 3, 65, 64)
    saved = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(saved, tmp_path / "weights.safetensors")
    loaded = copy.deepcopy(network)
    for parameter in loaded.parameters():
        nn.init.zeros_(parameter)
    loaded.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), loaded):
            for ours, theirs in zip(tensors(twin(images)), tensors(network(images)), strict=True):
                assert torch.equal(ours, theirs)
            twin.conv1.weight.data.zero_()
    assert network.conv1.weight.abs().sum() > 0


def test_folding_batch_norm_changes_nothing_but_rounding(network: HRNet) -> None:
    network.double()
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = images_of(1, 3, 61, 65)
    with torch.no_grad():
        assert_close(folded(images), network(images), 1e-10)


def test_checkpointing_changes_no_gradients(network: HRNet) -> None:
    network.double().train()
    saving = copy.deepcopy(network)
    saving.checkpoint_stages = frozenset({2, 3, 4})
    images = images_of(2, 3, 64, 61)
    for each in (network, saving):
        sum(x.square().mean() for x in tensors(each(images))).backward()
    for ours, theirs in zip(saving.parameters(), network.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-8, atol=1e-12)


def test_stages_to_checkpoint_reach_the_trunk() -> None:
    for build in NETWORKS.values():
        assert on_meta(lambda build=build: build(checkpoint_stages=[2, 4])).checkpoint_stages == {2, 4}
