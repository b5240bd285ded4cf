"""Polarized self-attention against a plain second implementation, and in the backbone."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hrseg.errors import ConfigError
from hrseg.models import VARIANTS, HRNetV2, HRNetVariant, create_model, fold_batch_norm
from hrseg.models.networks.hrnet import BasicBlock, Bottleneck, HRNet
from hrseg.models.networks.ocr import HRNetV2OCR
from hrseg.models.networks.psa import PSA_BLOCKS, ParallelPSA, PolarizedSelfAttention, PSABlock, SequentialPSA
from tests.networks import assert_same_gradients, exported, traced
from tests.references.hrnet_keys import SIZES, Shapes, segmentation_shapes
from tests.references.psa_plain import psa_block_plain, psa_plain

FORMS = {"psa_p": "parallel", "psa_s": "sequential"}
# parameters of the official W48 with an OCR head, without attention 70,372,678
OCR_COUNTS = {"psa_p": 76_727_878, "psa_s": 75_757_222}
TINY = HRNetVariant(16, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=4)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def lively(module: nn.Module) -> nn.Module:
    """In double precision, with weights and statistics for which every softmax, norm and sigmoid matters."""
    torch.manual_seed(0)
    module = module.double()
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(0, 0.4)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return module


def named(module: nn.Module, name: str) -> dict[str, Tensor]:
    return {f"{name}.{key}": tensor.clone() for key, tensor in module.state_dict().items()}


def maps_of(width: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(2, width, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def largest_error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("key", FORMS)
@pytest.mark.parametrize(("width", "size"), [(16, (5, 7)), (18, (1, 1)), (36, (4, 1))])
def test_attention_equals_the_plain_implementation(key: str, width: int, size: tuple[int, int]) -> None:
    attention = lively({"psa_p": ParallelPSA, "psa_s": SequentialPSA}[key](width))
    x = maps_of(width, size)
    expected = psa_plain(x, named(attention, "deattn"), "deattn", FORMS[key])
    assert largest_error(attention(x), expected) <= 1e-10


@pytest.mark.parametrize("key", FORMS)
@pytest.mark.parametrize("training", [True, False])
def test_block_and_gradients_equal_the_plain_implementation(key: str, training: bool) -> None:
    block = lively(PSA_BLOCKS[key](16)).train(training)
    leaves = named(block, "b")
    for name, tensor in leaves.items():
        tensor.requires_grad_(tensor.is_floating_point() and "running" not in name)
    x, y = maps_of(16, (5, 4)).requires_grad_(), maps_of(16, (5, 4)).requires_grad_()
    out, expected = block(x), psa_block_plain(y, leaves, "b", FORMS[key], batch_statistics=training)
    assert largest_error(out, expected) <= 1e-10
    probe = maps_of(16, (5, 4)).flip(0)
    (out * probe).sum().backward()
    (expected * probe).sum().backward()
    found = {"x": x.grad} | {name: parameter.grad for name, parameter in block.named_parameters()}
    for name, ours in found.items():
        theirs = y.grad if name == "x" else leaves[f"b.{name}"].grad
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs).abs().max() <= 1e-9 * max(theirs.abs().max(), 1), name


def test_parallel_and_sequential_attention_differ() -> None:
    """The other tests do not compare constants: the order and the place of the softmax change the result."""
    parallel = lively(ParallelPSA(16))
    assert isinstance(parallel, PolarizedSelfAttention)
    x = maps_of(16, (5, 7))
    weights = named(parallel, "a")
    assert largest_error(psa_plain(x, weights, "a", "sequential"), psa_plain(x, weights, "a", "parallel")) > 0.1
    by_pixel = (parallel.weigh_pixels(x) / x)[:, :1]
    assert (by_pixel.amax((2, 3)) - by_pixel.amin((2, 3))).min() > 0.01
    assert largest_error(parallel.weigh_pixels(x), x * by_pixel) < 1e-12
    by_channel = (parallel.weigh_channels(x) / x)[..., :1, :1]
    assert (by_channel.amax(1) - by_channel.amin(1)).min() > 0.01
    assert largest_error(parallel.weigh_channels(x), x * by_channel) < 1e-12


def attention_shapes(name: str, key: str, width: int) -> Shapes:
    """Official keys and shapes of one attention layer, written down from their description."""
    inner, narrow = width // 2, width // 2 // 4
    shapes: Shapes = {
        f"{name}.conv_q_right.weight": (1, width, 1, 1),
        f"{name}.conv_v_right.weight": (inner, width, 1, 1),
        f"{name}.conv_q_left.weight": (inner, width, 1, 1),
        f"{name}.conv_v_left.weight": (inner, width, 1, 1),
    }
    if key == "psa_p":
        return shapes | {f"{name}.conv_up.weight": (width, inner, 1, 1)}
    return shapes | {
        f"{name}.conv_up.0.weight": (narrow, inner, 1, 1),
        f"{name}.conv_up.0.bias": (narrow,),
        f"{name}.conv_up.1.weight": (narrow, 1, 1),
        f"{name}.conv_up.1.bias": (narrow, 1, 1),
        f"{name}.conv_up.3.weight": (width, narrow, 1, 1),
        f"{name}.conv_up.3.bias": (width,),
    }


@pytest.mark.parametrize("key", FORMS)
@pytest.mark.parametrize("size", ["w18_small_v1", "w48"])
def test_official_names_and_shapes(key: str, size: str) -> None:
    with torch.device("meta"):
        network = HRNetV2(replace(VARIANTS[size], block=PSA_BLOCKS[key]))
    sizes = SIZES[f"hrnetv2_{size}"]
    expected = segmentation_shapes(sizes, num_classes=19)
    for name in list(expected):
        if ".branches." in name and name.endswith("conv1.weight"):
            branch = int(name.split(".")[3])
            block = name.removesuffix(".conv1.weight")
            expected |= attention_shapes(f"{block}.deattn", key, sizes.width * 2**branch)
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == expected


@pytest.mark.parametrize("key", FORMS)
def test_counts_of_w48(key: str) -> None:
    variant = replace(VARIANTS["w48"], block=PSA_BLOCKS[key])
    with torch.device("meta"):
        backbone = HRNet(variant)
        assert parameters(HRNetV2OCR(variant)) == OCR_COUNTS[key]
    added = OCR_COUNTS[key] - 70_372_678
    assert parameters(backbone) == 65_325_120 + added
    blocks = [module for module in backbone.modules() if isinstance(module, PSABlock)]
    assert len(blocks) == 104
    assert sum(parameters(block.deattn) for block in blocks) == added
    assert not any(isinstance(module, BasicBlock) for module in backbone.modules())
    assert sum(isinstance(module, Bottleneck) for module in backbone.layer1) == 4


@pytest.mark.parametrize("key", FORMS)
def test_every_block_of_a_network_equals_the_plain_implementation(key: str) -> None:
    variant = replace(TINY, block=PSA_BLOCKS[key])
    network = HRNetV2(variant, num_classes=5, init="kaiming").double()
    calls: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str, block: nn.Module) -> None:
        block.register_forward_hook(lambda _, given, out: calls.update({name: (given[0].clone(), out.clone())}))

    blocks = {name: module for name, module in network.named_modules() if isinstance(module, PSABlock)}
    for name, block in blocks.items():
        record(name, block)
    images = torch.randn(2, 3, 33, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for training in (True, False):
        calls.clear()
        with torch.no_grad():
            assert network.train(training)(images).shape == (2, 5, 33, 40)
        assert len(calls) == len(blocks) == 9
        for name, (given, out) in calls.items():
            expected = psa_block_plain(given, dict(network.state_dict()), name, FORMS[key], training)
            assert largest_error(out, expected) <= 1e-10, name


def test_constant_attention_equals_the_plain_network() -> None:
    torch.manual_seed(0)
    network = HRNetV2(replace(TINY, block=PSA_BLOCKS["psa_s"]), init="kaiming", bn_momentum=0.5).double()
    plain = HRNetV2(TINY, bn_momentum=0.5).double()
    with torch.no_grad():
        for block in network.modules():
            if isinstance(block, PSABlock):
                assert isinstance(block.deattn.conv_up, nn.Sequential)
                block.deattn.get_parameter("conv_up.3.weight").zero_()
                block.deattn.get_parameter("conv_up.3.bias").fill_(100)  # channel weights of 1
                block.deattn.get_parameter("conv_q_left.weight").zero_()  # pixel weights of 0.5
        network(torch.randn(2, 3, 64, 64, dtype=torch.float64))
        plain.load_state_dict({k: v for k, v in network.state_dict().items() if ".deattn." not in k})
        for module in plain.modules():
            if isinstance(module, BasicBlock):
                module.conv2.weight *= 0.5
        images = torch.randn(1, 3, 65, 47, dtype=torch.float64)
        assert largest_error(network.eval()(images), plain.eval()(images)) <= 1e-12


@pytest.mark.parametrize("key", FORMS)
def test_checkpointing_changes_neither_gradients_nor_statistics(key: str) -> None:
    torch.manual_seed(0)
    variant = replace(TINY, block=PSA_BLOCKS[key])
    plain = HRNetV2(variant, init="kaiming").double()
    saving = HRNetV2(variant, checkpoint_stages=[1, 2, 3, 4]).double()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 40, 33, dtype=torch.float64)
    for network in (plain, saving):
        network(images).square().mean().backward()
    assert_same_gradients(saving, plain, rtol=1e-9)
    for mine, other in zip(saving.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-12)


@pytest.mark.parametrize("key", FORMS)
def test_official_initialisation_covers_the_attention(key: str) -> None:
    torch.manual_seed(0)
    network = HRNetV2(replace(VARIANTS["w18_small_v1"], block=PSA_BLOCKS[key]), init="official")
    weights = [
        module.weight.flatten()
        for name, module in network.named_modules()
        if ".deattn." in name and isinstance(module, nn.Conv2d)
    ]
    assert torch.cat(weights).std().item() == pytest.approx(0.001, rel=0.02)


def test_plain_variants_have_plain_blocks() -> None:
    assert all(variant.block is BasicBlock for variant in VARIANTS.values())
    assert not any(".deattn." in name for name in create_model("hrnetv2_w18_small_v1").state_dict())


def test_narrow_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="width is 4; expected at least 8"):
        HRNetV2(HRNetVariant(4, blocks=1, modules=(1, 1, 1), block=PSA_BLOCKS["psa_s"]))


@pytest.fixture
def blocks() -> nn.Module:
    """One block of each kind; test_deployment.py does the same to the backbone."""
    torch.manual_seed(0)
    blocks = nn.Sequential(*(block(16) for block in PSA_BLOCKS.values()))
    with torch.no_grad():
        for _ in range(20):
            blocks(torch.randn(2, 16, 8, 8))
    return blocks.eval()


def sizes_of_maps() -> list[Tensor]:
    return [torch.randn(shape) for shape in ((2, 16, 6, 9), (1, 16, 13, 4), (3, 16, 2, 2))]


@pytest.mark.usefixtures("fresh_compiler")
def test_compiles_as_one_graph(blocks: nn.Module) -> None:
    compiled = torch.compile(blocks, fullgraph=True, backend="eager", dynamic=True)
    with torch.no_grad():
        for x in sizes_of_maps():
            assert largest_error(compiled(x), blocks(x)) < 1e-5


def test_exports_with_dynamic_sizes(blocks: nn.Module) -> None:
    module = exported(blocks, (2, 16, 5, 7), smallest=2)
    with torch.no_grad():
        for x in sizes_of_maps():
            assert largest_error(module(x), blocks(x)) < 1e-5


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated, but still used by many runtimes
def test_traces_to_a_graph_for_any_size(blocks: nn.Module) -> None:
    restored = traced(blocks, (1, 16, 5, 7))
    with torch.no_grad():
        for x in sizes_of_maps():
            assert largest_error(restored(x), blocks(x)) < 1e-5


def test_channels_last_keeps_results_and_format(blocks: nn.Module) -> None:
    for x in sizes_of_maps():
        expected = blocks(x)
        out = copy.deepcopy(blocks).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert largest_error(out, expected) < 1e-5


def test_bfloat16_autocast(blocks: nn.Module) -> None:
    x = sizes_of_maps()[0]
    with torch.autocast("cpu", torch.bfloat16):
        out = blocks(x)
    assert largest_error(out.float(), blocks(x)) < 0.05
    out.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in blocks.parameters())


def test_copies_pickles_files_and_folding(blocks: nn.Module, tmp_path: Path) -> None:
    save_file(blocks.state_dict(), tmp_path / "weights.safetensors")
    loaded = copy.deepcopy(blocks)
    for parameter in loaded.parameters():
        nn.init.zeros_(parameter)
    loaded.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    folded = fold_batch_norm(blocks)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        for x in sizes_of_maps():
            for twin in (copy.deepcopy(blocks), pickle.loads(pickle.dumps(blocks)), loaded):
                assert torch.equal(twin(x), blocks(x))
            assert largest_error(folded(x), blocks(x)) < 1e-5
