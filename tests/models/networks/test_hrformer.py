"""HRFormer against the published counts and a plain second implementation, and in deployment."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hrseg.errors import ConfigError
from hrseg.models.networks.folding import fold_batch_norm
from hrseg.models.networks.hrformer import (
    HRFORMER_VARIANTS,
    DropPath,
    HRFormer,
    HRFormerClassifier,
    HRFormerOCR,
    HRFormerVariant,
    TransformerBlock,
    TransformerModule,
)
from hrseg.models.networks.hrnet import Maps
from tests.networks import assert_close, assert_same_outputs, bytes_kept, exported, traced
from tests.references.hrformer_plain import (
    classifier_plain,
    classifier_shapes,
    hrformer_plain,
    table_rows,
    trunk_shapes,
)
from tests.references.hrnet_keys import Shapes, random_weights
from tests.references.hrnet_plain import Weights, enlarge
from tests.references.ocr_plain import ocr_plain, ocr_shapes

# parameters of backbone and classifier and keys of the state dict, counted on the official code; multiply-adds at
# 224x224 in 10^9, including the norms, from HRFormer's README
OFFICIAL = {
    "t": (2_572_388, 8_035_820, 2083, 1.83),
    "s": (7_891_050, 13_544_882, 2359, 3.56),
    "b": (44_040_666, 50_320_098, 2359, 13.71),
}
OFFICIAL_OCR = {  # parameters with 19 classes
    ("s", 7): 13_523_856,
    ("b", 7): 56_032_512,
    ("b", 13): 56_143_776,
    ("b", 15): 56_196_480,
}
TINY = HRFormerVariant(4, heads=1, modules=(1, 1, 1), blocks=1)
DEEPER = HRFormerVariant(6, heads=2, modules=(1, 2, 1))


pytestmark = pytest.mark.usefixtures("fresh_compiler")


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shapes_of(variant: HRFormerVariant, window: int = 7) -> Shapes:
    return trunk_shapes(variant.width, variant.heads, variant.modules, variant.blocks, window)


def weights_for(shapes: Shapes) -> Weights:
    weights = random_weights({name: shape for name, shape in shapes.items() if not name.endswith("_index")})
    return weights | {
        name: table_rows(round(shape[0] ** 0.5)) for name, shape in shapes.items() if name.endswith("_index")
    }


def images_of(*size: int, number: int = 1) -> Tensor:
    return torch.randn(number, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("size", OFFICIAL)
def test_counts_names_and_shapes_of_the_classifiers(size: str) -> None:
    variant = HRFORMER_VARIANTS[size]
    backbone, whole, entries, _ = OFFICIAL[size]
    with torch.device("meta"):
        network = HRFormerClassifier(variant)
    assert parameters(network) == whole
    of_backbone = shapes_of(variant)
    assert sum(weight.numel() for name, weight in network.named_parameters() if name in of_backbone) == backbone
    found = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert len(found) == entries
    assert found == classifier_shapes(variant.width, variant.heads, variant.modules)


@pytest.mark.slow
@pytest.mark.parametrize("size", OFFICIAL)
def test_multiply_adds(size: str) -> None:
    with torch.device("meta"):
        network = HRFormerClassifier(HRFORMER_VARIANTS[size]).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, 224, 224, device="meta"))
    assert 0.93 < counter.get_total_flops() / 2e9 / OFFICIAL[size][3] < 1


@pytest.mark.parametrize(("size", "window"), OFFICIAL_OCR)
def test_counts_names_and_shapes_of_the_segmentation_networks(size: str, window: int) -> None:
    variant = HRFORMER_VARIANTS[size]
    with torch.device("meta"):
        network = HRFormerOCR(variant, window_size=window)
    assert parameters(network) == OFFICIAL_OCR[size, window]
    found = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    head = ocr_shapes(15 * variant.width, 19, inner_bias=True, aux_kernel=3, aux=512)
    assert found == shapes_of(variant, window) | head
    assert {name for name in found if name.split(".")[0] in network.head_names} == set(head)


@pytest.mark.parametrize(
    ("variant", "window", "size"),
    [
        (TINY, 7, (65, 97)),  # maps of 17x25 to 3x4: all padded, most of them more on one side
        (TINY, 7, (32, 56)),  # 14 columns of the finest map need no padding
        (TINY, 3, (33, 47)),
        (TINY, 4, (64, 64)),  # even, and no map but the coarsest is padded
        (DEEPER, 5, (45, 34)),
    ],
)
def test_equals_the_plain_implementation(variant: HRFormerVariant, window: int, size: tuple[int, int]) -> None:
    network = HRFormer(variant, window_size=window, drop_path=0.3).double().eval()
    weights = weights_for(shapes_of(variant, window))
    network.load_state_dict(weights)
    images = images_of(*size)
    given = images.clone()
    with torch.no_grad():
        maps, expected = network.features(images), hrformer_plain(images, weights, window)
        assert torch.equal(images, given)
        for ours, theirs in zip(maps, expected, strict=True):
            assert_close(ours, theirs, 1e-10)
        for ours, theirs in zip(network.float().features(images.float()), expected, strict=True):
            assert_close(ours.double(), theirs, 1e-5)


def test_no_map_is_padded_where_the_window_divides_all() -> None:
    network = HRFormer(TINY).double().eval()
    weights = weights_for(shapes_of(TINY))
    network.load_state_dict(weights)
    images = images_of(224, 224)
    with torch.no_grad():
        for ours, theirs in zip(network.features(images), hrformer_plain(images, weights), strict=True):
            assert_close(ours, theirs, 1e-10)


def test_classifier_equals_the_plain_implementation() -> None:
    network = HRFormerClassifier(TINY, window_size=3).double()
    shapes = classifier_shapes(TINY.width, TINY.heads, TINY.modules, TINY.blocks) | shapes_of(TINY, 3)
    weights = weights_for(shapes)
    network.load_state_dict(weights)
    images = images_of(65, 43, number=2)
    with torch.no_grad():
        assert_close(network.eval()(images), classifier_plain(hrformer_plain(images, weights, 3), weights), 1e-10)


def test_segmentation_network_equals_the_plain_implementation() -> None:
    network = HRFormerOCR(TINY, num_classes=5, window_size=5).double().eval()
    weights = weights_for(shapes_of(TINY, 5) | ocr_shapes(60, 5, inner_bias=True, aux_kernel=3, aux=512))
    network.load_state_dict(weights)
    images = images_of(50, 35)
    with torch.no_grad():
        logits, aux = ocr_plain(hrformer_plain(images, weights, 5), weights, align_corners=True)
        outputs = network.outputs(images)
        assert_close(outputs["out"], logits, 1e-10)
        assert_close(outputs["aux"], aux, 1e-10)
        assert_close(network(images), enlarge(logits, (50, 35), "bilinear", align_corners=True), 1e-10)


def test_gradients_equal_those_of_the_plain_implementation() -> None:
    network = HRFormer(TINY, window_size=3).double()
    weights = weights_for(shapes_of(TINY, 3))
    network.load_state_dict(weights)
    images = images_of(36, 45, number=2)
    leaves = {
        name: value.double().requires_grad_() if value.is_floating_point() else value for name, value in weights.items()
    }
    expected = hrformer_plain(images, leaves, 3, batch_statistics=True)
    maps = network.train().features(images)
    probes = [torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype) for x in maps]
    for values in (expected, maps):
        torch.stack([(x * probe).sum() for x, probe in zip(values, probes, strict=True)]).sum().backward()
    for name, parameter in network.named_parameters():
        gradient = leaves[name].grad
        assert parameter.grad is not None
        assert gradient is not None
        assert (parameter.grad - gradient).abs().max() <= 1e-9 * max(gradient.abs().max(), 1), name


def test_stochastic_depth_rises_linearly_over_the_blocks() -> None:
    network = HRFormer(HRFormerVariant(4, heads=1, modules=(1, 2, 1)), drop_path=0.35)
    found = {
        name.removesuffix(".drop_path"): module.probability
        for name, module in network.named_modules()
        if isinstance(module, DropPath)
    }
    places = ["stage2.0", "stage3.0", "stage3.1", "stage4.0"]
    for number, (place, block) in enumerate((place, block) for place in places for block in range(2)):
        for branch in range(int(place[5])):
            assert found.pop(f"{place}.branches.{branch}.{block}") == pytest.approx(0.35 * number / 7)
    assert not found


def test_stochastic_depth_drops_whole_images() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25)
    maps = torch.rand(4000, 2, 3) + 1
    dropped = layer(maps)
    share = dropped / maps
    kept = share[:, 0, 0] > 0
    assert torch.allclose(share, (kept / 0.75)[:, None, None].expand_as(share))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(layer.eval()(maps), maps)
    assert torch.equal(DropPath(0)(maps), maps)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (63, 64), (97, 65), (100, 35)])
def test_any_size(size: tuple[int, int]) -> None:
    network = HRFormerOCR(TINY, num_classes=5).eval()
    with torch.inference_mode():
        images = torch.randn(1, 3, *size)
        assert network(images).shape == (1, 5, *size)
        shapes = [tuple(x.shape[1:]) for x in network.features(images)]
    strides = (4, 8, 16, 32)
    assert shapes == [(stride, -(-size[0] // stride), -(-size[1] // stride)) for stride in strides]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window_size": 0}, "window_size is 0; expected a number from 1"),
        ({"window_size": 7.5}, "window_size is 7.5"),
        ({"drop_path": 1.0}, "drop_path is 1.0; expected from 0 to below 1"),
        ({"drop_path": "0.2"}, "drop_path is '0.2'"),
        ({"num_classes": 0}, "num_classes is 0; expected a number from 1"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"checkpoint_stages": [5]}, "checkpoint_stages is .* out of 1, 2, 3, 4"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object], message: str) -> None:
    for network in (HRFormerClassifier, HRFormerOCR):
        with pytest.raises(ConfigError, match=message):
            network(TINY, **arguments)


def test_wrong_images() -> None:
    with pytest.raises(ConfigError, match=r"\(1, 4, 31, 64\); expected \(batch, 3, height, width\)"):
        HRFormerClassifier(TINY)(torch.zeros(1, 4, 31, 64))


@pytest.mark.parametrize("size", [(1, 1), (20, 40)])
def test_small_images(size: tuple[int, int]) -> None:
    assert HRFormerOCR(TINY, num_classes=5).eval()(torch.randn(1, 3, *size)).shape == (1, 5, *size)


def test_drop_path_has_the_official_mask() -> None:
    x = torch.ones(64, 1, 1, 1)
    torch.manual_seed(0)
    dropped = DropPath(0.3).train()(x)
    torch.manual_seed(0)
    mask = torch.floor(0.7 + torch.rand(64, 1, 1, 1))
    torch.testing.assert_close(dropped, mask / 0.7)


@pytest.mark.parametrize("stages", [[3], (1, 2, 3, 4)])
def test_checkpointing_changes_neither_gradients_nor_statistics(stages: Sequence[int]) -> None:
    torch.manual_seed(0)
    plain = HRFormer(TINY, window_size=3, drop_path=0.5).double()
    saving = HRFormer(TINY, window_size=3, drop_path=0.5, checkpoint_stages=stages).double()
    saving.load_state_dict(plain.state_dict())
    images = images_of(64, 48, number=4)
    for network in (plain, saving):
        torch.manual_seed(5)
        for _ in range(2):
            torch.stack([x.square().mean() for x in network.features(images)]).sum().backward()
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).abs().max() <= 1e-10 * max(theirs.grad.abs().max(), 1e-3)
    for (name, ours), theirs in zip(saving.named_buffers(), plain.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12), name
    assert saving.get_buffer("stage4.0.branches.0.0.mlp.norm1.num_batches_tracked") == 2


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    def kept(stages: list[int]) -> int:
        return bytes_kept(lambda: HRFormer(TINY, checkpoint_stages=stages).features(torch.randn(2, 3, 64, 64)))

    everything, least = kept([]), kept([1, 2, 3, 4])
    assert least < 0.6 * everything


def lively(network: HRFormer) -> HRFormer:
    """Sets running statistics by a few batches, and evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    for _ in range(2):
        network(torch.randn(2, 3, 64, 64))
    return network.eval()


@pytest.fixture(params=[HRFormerClassifier, HRFormerOCR])
def network(request: pytest.FixtureRequest) -> HRFormer:
    torch.manual_seed(0)
    return lively(request.param(TINY, num_classes=5, drop_path=0.2))


class Pair(nn.Module):
    """A module of two branches; a whole backbone takes long to compile."""

    def __init__(self) -> None:
        super().__init__()
        self.coarser = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.exchange = TransformerModule([4, 8], heads=2, window_size=7, drop_paths=[0.2])

    def forward(self, x: Tensor) -> Maps:
        maps: Maps = self.exchange((x, self.coarser(x)))
        return maps


@pytest.fixture
def pair() -> Pair:
    torch.manual_seed(0)
    return Pair().eval()


def test_a_module_compiles_as_one_graph(pair: Pair) -> None:
    compiled = torch.compile(pair, fullgraph=True, backend="eager", dynamic=True)
    assert_same_outputs(compiled, pair, (2, 4, 16, 24), (2, 4, 25, 17))


def test_a_module_exports_with_dynamic_sizes(pair: Pair) -> None:
    module = exported(pair, (2, 4, 16, 24), smallest=3)
    assert_same_outputs(module, pair, (1, 4, 16, 24), (3, 4, 25, 17), (1, 4, 3, 5), (2, 4, 28, 14))


@pytest.mark.slow
def test_compiles_as_one_graph(network: HRFormer) -> None:
    compiled = torch.compile(network, fullgraph=True, backend="eager", dynamic=True)
    assert_same_outputs(compiled, network, (2, 3, 64, 96), (2, 3, 97, 65))


@pytest.mark.slow
def test_trains_compiled_as_one_graph() -> None:
    torch.manual_seed(0)
    network = HRFormerClassifier(TINY, num_classes=5, drop_path=0.2, checkpoint_stages=[4])
    images = torch.randn(2, 3, 64, 64)
    torch.compile(network, fullgraph=True, backend="aot_eager")(images).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.slow
def test_exports_with_dynamic_sizes(network: HRFormer) -> None:
    module = exported(network, (2, 3, 64, 96))
    assert_same_outputs(module, network, (1, 3, 64, 96), (3, 3, 97, 65), (1, 3, 33, 47), (1, 3, 224, 224))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated, but still used by many runtimes
@pytest.mark.parametrize("network", [HRFormerClassifier], indirect=True)
def test_traces_to_a_graph_for_any_size(network: HRFormer) -> None:
    module = traced(network, (1, 3, 64, 96), check_trace=False)  # checked below
    assert_same_outputs(module, network, (1, 3, 64, 96), (2, 3, 97, 65), (1, 3, 33, 47), (1, 3, 224, 224))


def test_channels_last_keeps_results_and_format(network: HRFormer) -> None:
    images = torch.randn(2, 3, 65, 97)
    expected = network(images)
    network.to(memory_format=torch.channels_last)
    for given in (images, images.to(memory_format=torch.channels_last)):
        assert_close(network(given), expected, 1e-5)
        formats: list[bool] = []
        hooks = [
            module.register_forward_hook(
                lambda _, __, out, formats=formats: formats.append(out.is_contiguous(memory_format=torch.channels_last))
            )
            for module in network.modules()
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | TransformerBlock)
        ]
        assert all(x.is_contiguous(memory_format=torch.channels_last) for x in network.features(given))
        assert formats
        assert all(formats)
        for hook in hooks:
            hook.remove()


def test_trains_in_channels_last() -> None:
    torch.manual_seed(0)
    network = HRFormer(TINY).double()
    twin = copy.deepcopy(network).to(memory_format=torch.channels_last)
    for each in (network, twin):
        torch.stack([x.square().mean() for x in each.features(images_of(64, 64, number=2))]).sum().backward()
    for ours, theirs in zip(twin.parameters(), network.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        # relative to the largest: single values may be differences of numbers a million times as large
        assert (ours.grad - theirs.grad).abs().max() <= 1e-10 * max(theirs.grad.abs().max(), 1)


def test_bfloat16_autocast(network: HRFormer) -> None:
    images = torch.randn(2, 3, 33, 47)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    assert_close(logits.float(), network(images), 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        network.train()(images).float().square().mean().backward()
    for name, parameter in network.named_parameters():
        if not name.startswith("aux_head.3"):  # only the attention to regions depends on it; its bias has no effect
            assert parameter.grad is not None, name
            assert parameter.grad.dtype == torch.float32


def test_copies_and_pickles(network: HRFormer) -> None:
    images = torch.randn(1, 3, 40, 40)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(images), network(images))
        twin.get_parameter("conv1.weight").data.zero_()
    assert network.get_parameter("conv1.weight").abs().sum() > 0


def test_round_trip_through_safetensors(network: HRFormer, tmp_path: Path) -> None:
    state = network.to(memory_format=torch.channels_last).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "weights.safetensors")
    again = type(network)(TINY, num_classes=5).eval()
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


# the OCR head's norms are nested one level deeper than their convolutions, where folding does not find them
@pytest.mark.parametrize("network", [HRFormerClassifier], indirect=True)
def test_folding_batch_norm_keeps_results(network: HRFormer) -> None:
    network.double()
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        assert_close(folded(images_of(45, 33)), network(images_of(45, 33)), 1e-10)
