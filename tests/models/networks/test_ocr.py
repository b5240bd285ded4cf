"""HRNetV2 + OCR against the published numbers and a plain second implementation, and in deployment."""

from __future__ import annotations

import copy
import pickle
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hrseg.errors import ConfigError
from hrseg.losses import CrossEntropyLoss, WeightedOutputsLoss
from hrseg.models import VARIANTS, HRNetVariant, fold_batch_norm, load_weights, outputs_of, save_weights
from hrseg.models.networks.ocr import HRNetV2OCR, gather_regions
from hrseg.optim import parameter_groups
from tests.networks import assert_close, assert_same_gradients, assert_same_outputs, traced
from tests.references.hrnet_keys import SIZES, Sizes, classification_shapes, random_weights, trunk_shapes
from tests.references.hrnet_plain import enlarge, hrnet_plain
from tests.references.ocr_plain import ocr_plain, ocr_shapes

# parameters with 19 classes, and keys of the state dict: counted on the official code
OFFICIAL_COUNTS = {
    "w18_small_v1": (3_842_278, 486),
    "w18_small_v2": (6_379_278, 924),
    "w18": (12_080_818, 1890),
    "w30": (29_293_834, 1890),
    "w32": (32_953_894, 1890),
    "w40": (49_854_774, 1890),
    "w44": (59_661_598, 1890),
    "w48": (70_372_678, 1890),
    "w64": (122_259_558, 1890),
}
OPENSEG: dict[str, Any] = {"inner_bias": True, "aux_kernel": 3}
OPENSEG_B: dict[str, Any] = {**OPENSEG, "mid_channels": 256, "key_channels": 128, "aux_channels": 256}

TINY = HRNetVariant(4, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=4)
TINY_SIZES = Sizes(4, 1, (1, 1, 1), 1, 4)
NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
SMALL_HEAD: dict[str, Any] = {"num_classes": 5, "mid_channels": 12, "key_channels": 6}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(name: str, **arguments: Any) -> HRNetV2OCR:
    with torch.device("meta"):
        return HRNetV2OCR(VARIANTS[name], **arguments).eval()


def tiny(**arguments: Any) -> HRNetV2OCR:
    return HRNetV2OCR(TINY, **{**SMALL_HEAD, **arguments})


def loaded(align_corners: bool = True, **arguments: Any) -> tuple[HRNetV2OCR, dict[str, Tensor]]:
    """A tiny network in double precision with random weights, and the weights."""
    network = tiny(align_corners=align_corners, dropout=0.0, **arguments)
    head = ocr_shapes(
        60,
        5,
        12,
        6,
        arguments.get("inner_bias", False),
        arguments.get("aux_kernel", 1),
        arguments.get("aux_channels"),
    )
    weights = random_weights(trunk_shapes(TINY_SIZES) | head)
    network.load_state_dict(weights)
    return network.double(), weights


def plain(
    images: Tensor, weights: dict[str, Tensor], align_corners: bool, fuse_mode: str = "bilinear", training: bool = False
) -> tuple[Tensor, Tensor]:
    """The whole network in the second implementation; the plain head that `hrnet_plain` needs is not used."""
    plain_head = {"0.weight": (1, 60, 1, 1), "1.weight": (1,), "1.bias": (1,), "3.weight": (1, 1, 1, 1), "3.bias": (1,)}
    plain_head |= {"1.running_mean": (1,), "1.running_var": (1,)}
    unused = {f"last_layer.{name}": torch.ones(shape) for name, shape in plain_head.items()}
    maps, _ = hrnet_plain(images, weights | unused, fuse_mode, align_corners, training)
    return ocr_plain(maps, weights, align_corners, training)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------- published numbers


@pytest.mark.parametrize("name", OFFICIAL_COUNTS)
def test_counts(name: str) -> None:
    network = on_meta(name)
    assert (parameters(network), len(network.state_dict())) == OFFICIAL_COUNTS[name]


@pytest.mark.parametrize(("num_classes", "number"), [(20, 70_373_912), (59, 70_422_038), (60, 70_423_272)])
def test_counts_of_w48(num_classes: int, number: int) -> None:
    network = on_meta("w48", num_classes=num_classes)
    assert parameters(network) == number
    assert len(network.state_dict()) == 1890


def test_counts_of_the_modules() -> None:
    network = on_meta("w48")
    counts = {name: parameters(part) for name, part in network.named_children() if name in network.head_names}
    assert counts == {
        "conv3x3_ocr": 3_319_296,
        "ocr_distri_head": 1_184_256,
        "cls_head": 9_747,
        "aux_head": 534_259,
    }


@pytest.mark.parametrize(("arguments", "number"), [(OPENSEG, 74_522_182), (OPENSEG_B, 68_952_550)])
def test_counts_of_the_variants_of_openseg(arguments: dict[str, Any], number: int) -> None:
    network = on_meta("w48", **arguments)
    assert parameters(network) == number
    assert len(network.state_dict()) == 1897


def test_multiply_adds_are_the_published_ones() -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta("w48")(torch.empty(1, 3, 1024, 2048, device="meta"))
    flops = counter.get_flop_counts()["Global"]
    convolutions = flops.pop(torch.ops.aten.convolution) // 2
    assert convolutions / 1e9 == pytest.approx(1295.4, abs=0.1)
    assert convolutions * 10 // 2**30 == 12063  # 1206.3 in the README, rounded down
    pixels = 256 * 512
    assert flops == {torch.ops.aten.bmm: 2 * 19 * pixels * (512 + 256 + 256)}  # regions, similarities, contexts


@pytest.mark.parametrize("name", ["w18_small_v1", "w48"])
@pytest.mark.parametrize(
    "arguments", [{}, {"inner_bias": True, "aux_kernel": 3, "mid_channels": 8, "key_channels": 4, "aux_channels": 6}]
)
def test_official_names_and_shapes(name: str, arguments: dict[str, Any]) -> None:
    sizes = SIZES[f"hrnetv2_{name}"]
    found = {key: tuple(value.shape) for key, value in on_meta(name, num_classes=7, **arguments).state_dict().items()}
    short = {key.removesuffix("_channels"): value for key, value in arguments.items()}
    head = ocr_shapes(15 * sizes.width, 7, **short)
    assert found == trunk_shapes(sizes) | head
    assert list(found)[-len(head) :] == list(head)


def test_the_default_is_the_official_network_for_cityscapes() -> None:
    network = on_meta("w18_small_v1")
    assert (network.num_classes, network.align_corners) == (19, True)
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout2d)]
    assert [module.p for module in dropouts] == [0.05]
    assert all(module.momentum == 0.1 for module in network.modules() if isinstance(module, nn.BatchNorm2d))


# --------------------------------------------------------------------------------------------- second implementation


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (33, 47), (97, 65)])
def test_equals_the_plain_implementation(align_corners: bool, size: tuple[int, int]) -> None:
    network, weights = loaded(align_corners)
    images = draw(2, 3, *size)
    before = images.clone()
    with torch.no_grad():
        expected, expected_aux = plain(images, weights, align_corners)
        outputs = network.eval().outputs(images)
        logits = network(images)
    assert torch.equal(images, before)
    assert list(outputs) == ["out", "aux"]
    assert_close(outputs["out"], expected, 1e-10)
    assert_close(outputs["aux"], expected_aux, 1e-10)
    assert_close(logits, enlarge(expected, size, "bilinear", align_corners), 1e-10)
    assert (outputs["out"] - outputs["aux"]).abs().max() > 0.1


@pytest.mark.parametrize(
    "arguments",
    [{"fuse_mode": "nearest"}, OPENSEG, {"aux_channels": 7, "inner_bias": True}],
    ids=["nearest", "openseg", "aux 7"],
)
def test_variants_equal_the_plain_implementation(arguments: dict[str, Any]) -> None:
    network, weights = loaded(**arguments)
    images = draw(1, 3, 45, 50)
    with torch.no_grad():
        expected, expected_aux = plain(images, weights, True, arguments.get("fuse_mode", "bilinear"))
        outputs = network.eval().outputs(images)
    assert_close(outputs["out"], expected, 1e-10)
    assert_close(outputs["aux"], expected_aux, 1e-10)


@pytest.mark.parametrize("memory_format", [NCHW, CHANNELS_LAST], ids=["NCHW", "channels_last"])
def test_training_equals_the_plain_implementation(memory_format: torch.memory_format) -> None:
    network, weights = loaded()
    network.train().to(memory_format=memory_format)
    images = draw(2, 3, 50, 61).to(memory_format=memory_format)
    leaves = {name: value.double().requires_grad_(value.ndim > 0) for name, value in weights.items()}
    probe, probe_aux = draw(2, 5, 13, 16, seed=2), draw(2, 5, 13, 16, seed=3)
    expected, expected_aux = plain(images, leaves, True, training=True)
    outputs = network.outputs(images)
    assert_close(outputs["out"], expected, 1e-10)
    assert_close(outputs["aux"], expected_aux, 1e-10)
    (expected * probe + expected_aux * probe_aux).sum().backward()
    (outputs["out"] * probe + outputs["aux"] * probe_aux).sum().backward()
    for name, parameter in network.named_parameters():
        theirs = leaves[name].grad
        assert parameter.grad is not None
        assert theirs is not None
        assert (parameter.grad - theirs).abs().max() <= 1e-9 * max(theirs.abs().max(), 1), name


def test_the_main_loss_reaches_the_auxiliary_head() -> None:
    network, _ = loaded()
    (network.outputs(draw(1, 3, 40, 40))["out"] * draw(1, 5, 10, 10)).sum().backward()
    gradient = network.get_parameter("aux_head.3.weight").grad
    assert gradient is not None
    assert gradient.abs().max() > 0


def test_regions_are_averages_over_the_pixels() -> None:
    pixels = draw(1, 3, 4, 5)
    sure = torch.full((1, 2, 4, 5), -1e3, dtype=torch.float64)
    sure[0, 0, 1, 2] = sure[0, 1, 3, 4] = 0  # each region is one pixel
    regions = gather_regions(pixels, sure)
    assert regions.shape == (1, 3, 2, 1)
    assert torch.equal(regions[0, :, :, 0], torch.stack([pixels[0, :, 1, 2], pixels[0, :, 3, 4]], 1))
    everywhere = gather_regions(pixels, torch.zeros(1, 2, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(everywhere[0, :, 1, 0], pixels.mean((2, 3))[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_averages_over_many_pixels_are_exact_in_half_precision(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 2, 256, 512, generator=generator).abs() + 1
    scores = torch.randn(1, 3, 256, 512, generator=generator)
    expected = gather_regions(pixels.double(), scores.double())
    regions = gather_regions(pixels.to(dtype), scores.to(dtype))
    assert regions.dtype == dtype
    assert_close(regions.double(), expected, 0.01)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (100, 35)])
def test_any_size(size: tuple[int, int]) -> None:
    network = tiny().eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 3, *size)).shape == (1, 5, *size)
        outputs = network.outputs(torch.randn(1, 3, *size))
    assert {tuple(x.shape) for x in outputs.values()} == {(1, 5, -(-size[0] // 4), -(-size[1] // 4))}


# -------------------------------------------------------------------------------------- arguments and initialisation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes is 0; expected a number from 1"),
        ({"mid_channels": 0}, "mid_channels is 0; expected a number from 1"),
        ({"key_channels": "256"}, "key_channels is '256'"),
        ({"aux_channels": 0}, "aux_channels is 0"),
        ({"dropout": 1}, "dropout is 1; expected from 0 to below 1"),
        ({"inner_bias": 0}, "inner_bias is 0; expected true or false"),
        ({"aux_kernel": 2}, "aux_kernel is 2; expected an odd number"),
        ({"init": "xavier"}, "init is 'xavier'; expected official or kaiming"),
        ({"bn_momentum": 0.0}, "bn_momentum is 0.0; expected above 0"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**arguments)


def test_official_initialisation_leaves_the_head_to_torch() -> None:
    torch.manual_seed(0)
    network = HRNetV2OCR(VARIANTS["w18_small_v1"], bn_momentum=0.3, init="official")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            in_head = any(part in name for part in ("cls", "aux", "ocr"))
            # torch draws uniformly from a bound of 1 / sqrt(fan)
            expected = (3 * fan) ** -0.5 if in_head else 0.001
            assert module.weight.std().item() == pytest.approx(expected, rel=0.15), name
            assert not in_head or module.weight.abs().max() <= fan**-0.5
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
            assert module.momentum == 0.3


def test_kaiming_initialisation_keeps_activations_alive() -> None:
    torch.manual_seed(0)
    network = HRNetV2OCR(VARIANTS["w18_small_v1"], init="kaiming")
    outputs = network.outputs(torch.randn(2, 3, 64, 64))
    assert all(0.3 < logits.std().item() < 3 for logits in outputs.values())
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.15), name
            assert module.bias is None or (module.bias == 0).all()


def test_official_recipes_train_only_the_head_faster() -> None:
    network = tiny()
    groups = {group["name"]: group for group in parameter_groups(network, 10.0, head_names=network.head_names)}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    head = {names[id(parameter)] for parameter in groups["head"]["params"]}
    assert head == {name for name in names.values() if any(part in name for part in ("cls", "aux", "ocr"))}
    assert groups["head"]["lr_factor"] == 10


def test_dropout_works_in_training_only() -> None:
    torch.manual_seed(0)
    network = tiny(dropout=0.5)
    images = torch.randn(2, 3, 40, 40)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_fits_one_batch_with_the_recipes_loss() -> None:
    torch.manual_seed(0)
    network = tiny(init="kaiming", checkpoint_stages=[2, 4])
    loss = WeightedOutputsLoss({"out": CrossEntropyLoss(), "aux": CrossEntropyLoss()}, {"aux": 0.4})
    images, target = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)
    target[:, 20:40] = 3
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        value = loss(network.outputs(images), target)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.5 * losses[0]


# ----------------------------------------------------------------------------------------------------------- weights


def test_round_trip_through_safetensors(tmp_path: Path) -> None:
    network, twin = tiny(), tiny()
    save_weights(network, tmp_path / "ocr.safetensors")
    report = load_weights(twin, tmp_path / "ocr.safetensors")
    assert len(report.matched) == len(network.state_dict())
    for ours, theirs in zip(network.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_imagenet_weights_load_into_the_backbone() -> None:
    network = tiny()
    weights = random_weights(classification_shapes(TINY_SIZES))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = load_weights(network, weights)
    state = network.state_dict()
    assert all(torch.equal(state[name], weights[name]) for name in trunk_shapes(TINY_SIZES))
    assert all(torch.equal(state[name], before[name]) for name in ocr_shapes(60, 5, 12, 6))
    assert {name.split(".")[0] for name in report.initialised} == set(network.head_names)


# -------------------------------------------------------------------------------------------------------- deployment


@pytest.fixture
def network() -> HRNetV2OCR:
    """In evaluation mode, with running statistics of a few batches."""
    torch.manual_seed(0)
    network = tiny(init="kaiming", bn_momentum=0.5)
    for _ in range(3):
        network(torch.randn(2, 3, 64, 64))
    return network.eval()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "memory_format", [pytest.param(NCHW, marks=pytest.mark.slow), CHANNELS_LAST], ids=["NCHW", "channels_last"]
)
def test_compiles_as_one_graph(network: HRNetV2OCR, memory_format: torch.memory_format) -> None:
    network.to(memory_format=memory_format)
    compiled = torch.compile(network, fullgraph=True, backend="eager", dynamic=True)
    with torch.no_grad():
        for size in ((64, 96), (97, 65)):
            images = torch.randn(2, 3, *size).to(memory_format=memory_format)
            assert_close(compiled(images), network(images))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_compiles_with_the_default_backend(network: HRNetV2OCR) -> None:
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler warns of features that the C++ compiler lacks
        assert_close(torch.compile(network, fullgraph=True)(images), network(images), 1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_trains_compiled_as_one_graph() -> None:
    network, _ = loaded()
    twin = copy.deepcopy(network)
    images = draw(2, 3, 64, 64)
    torch.compile(network, fullgraph=True, backend="aot_eager")(images).square().mean().backward()
    twin(images).square().mean().backward()
    assert_same_gradients(network, twin)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "memory_format", [NCHW, pytest.param(CHANNELS_LAST, marks=pytest.mark.slow)], ids=["NCHW", "channels_last"]
)
def test_exports_with_dynamic_sizes(network: HRNetV2OCR, memory_format: torch.memory_format) -> None:
    network.to(memory_format=memory_format)
    height, width = torch.export.Dim("height", min=33), torch.export.Dim("width", min=33)
    sizes = {0: torch.export.Dim("batch"), 2: height, 3: width}
    example = torch.randn(2, 3, 64, 96).to(memory_format=memory_format)
    module = torch.export.export(network, (example,), dynamic_shapes=(sizes,)).module()
    with torch.no_grad():
        for shape in ((1, 3, 64, 96), (3, 3, 97, 65), (1, 3, 33, 47)):
            images = torch.randn(shape).to(memory_format=memory_format)
            assert_close(module(images), network(images))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated, but still used by many runtimes
def test_traces_to_a_graph_for_any_size(network: HRNetV2OCR) -> None:
    assert_same_outputs(traced(network, (1, 3, 64, 96)), network, (1, 3, 64, 96), (2, 3, 97, 65), (1, 3, 33, 47))


def test_channels_last_keeps_results_and_format(network: HRNetV2OCR) -> None:
    images = torch.randn(2, 3, 65, 97)
    expected = network.outputs(images)
    network.to(memory_format=CHANNELS_LAST)
    formats: dict[str, bool] = {}
    for name, module in network.named_modules():
        if name.split(".")[0] in network.head_names:
            module.register_forward_hook(
                lambda _, __, out, name=name: formats.update({name: out.is_contiguous(memory_format=CHANNELS_LAST)})
            )
    outputs = network.outputs(images)
    assert_close(outputs["out"], expected["out"])
    assert_close(outputs["aux"], expected["aux"])
    assert len(formats) > 30
    assert all(formats.values()), formats


def test_bfloat16_autocast(network: HRNetV2OCR) -> None:
    images = torch.randn(2, 3, 65, 97)
    expected = network.outputs(images)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network.outputs(images)
        assert {x.dtype for x in outputs_of(network, images).values()} == {torch.float32}
    for name, logits in outputs.items():
        assert logits.dtype == torch.bfloat16
        assert_close(logits.float(), expected[name], 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        network.train()(images).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


def test_runs_in_bfloat16(network: HRNetV2OCR) -> None:
    images = torch.randn(1, 3, 64, 64)
    expected = network(images)
    assert_close(network.bfloat16()(images.bfloat16()).float(), expected, 0.1)


def test_copies_and_pickles(network: HRNetV2OCR) -> None:
    images = torch.randn(1, 3, 40, 40)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(images), network(images))
        twin.get_parameter("cls_head.weight").data.zero_()
    assert network.get_parameter("cls_head.weight").abs().sum() > 0


def test_forward_resizes_the_main_output(network: HRNetV2OCR) -> None:
    images = torch.randn(1, 3, 50, 70)
    out = network.outputs(images)["out"]
    assert out.shape == (1, 5, 13, 18)
    full = nn.functional.interpolate(out, size=(50, 70), mode="bilinear", align_corners=True)
    assert torch.equal(network(images), full)


def test_folding_batch_norm_keeps_results(network: HRNetV2OCR) -> None:
    network.double()
    images = draw(1, 3, 45, 33)
    with torch.no_grad():
        assert_close(fold_batch_norm(network)(images), network(images), 1e-10)


def test_a_replaced_classifier_is_used(network: HRNetV2OCR) -> None:
    network.cls_head = nn.Conv2d(12, 2, 1)
    assert network(torch.randn(1, 3, 40, 40)).shape == (1, 2, 40, 40)


def test_inference_frees_wide_maps_before_the_attention(network: HRNetV2OCR) -> None:
    """Outputs of the backbone and the first convolutions are freed before the attention."""
    references: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def watch(module: nn.Module, inputs: object, out: Tensor | tuple[Tensor, ...]) -> None:
        references.extend(weakref.ref(x) for x in (out if isinstance(out, tuple) else (out,)))

    for name in ("stage4.0", "aux_head.0", "conv3x3_ocr.0"):
        network.get_submodule(name).register_forward_hook(watch)
    network.ocr_distri_head.register_forward_pre_hook(
        lambda *_: alive.extend(reference() is not None for reference in references)
    )
    with torch.inference_mode():
        network(torch.randn(1, 3, 64, 64))
    assert alive == [False] * 6
