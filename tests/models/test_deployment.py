"""Deployment: compile, export, trace, copy, save, and run in other formats."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

from hrseg.models import HRNetV2, HRNetVariant, Segmenter, create_model, fold_batch_norm, outputs_of
from tests.networks import assert_close, assert_same_gradients, assert_same_outputs, exported, traced

TINY = HRNetVariant(4, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=4)
SMALL = "hrnetv2_w18_small_v1"


pytestmark = pytest.mark.usefixtures("fresh_compiler")


def lively(network: Segmenter) -> Segmenter:
    """Sets running statistics by a few batches, and evaluation mode."""
    for _ in range(3):
        network(torch.randn(2, 3, 64, 64))
    return network.eval()


@pytest.fixture
def network() -> Segmenter:
    torch.manual_seed(0)
    return lively(HRNetV2(TINY, num_classes=5, init="kaiming", bn_momentum=0.5))


def test_compiles_as_one_graph(network: Segmenter) -> None:
    compiled = torch.compile(network, fullgraph=True, backend="eager", dynamic=True)
    assert_same_outputs(compiled, network, (2, 3, 64, 96), (2, 3, 97, 65))


@pytest.mark.slow
def test_trains_compiled_as_one_graph_with_and_without_checkpoints() -> None:
    torch.manual_seed(0)
    network = HRNetV2(TINY, init="kaiming", bn_momentum=0.5, checkpoint_stages=[1, 4]).double()
    twin = HRNetV2(TINY, bn_momentum=0.5).double()
    twin.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    logits = torch.compile(network, fullgraph=True, backend="aot_eager")(images)
    logits.square().mean().backward()
    twin(images).square().mean().backward()
    assert_same_gradients(network, twin)
    for mine, other in zip(network.buffers(), twin.buffers(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_compiles_with_the_default_backend(network: Segmenter) -> None:
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler warns of features that the C++ compiler lacks
        assert_close(torch.compile(network, fullgraph=True)(images), network(images), 1e-4)


def test_exports_with_dynamic_sizes(network: Segmenter) -> None:
    assert_same_outputs(exported(network, (2, 3, 64, 96)), network, (1, 3, 64, 96), (3, 3, 97, 65), (1, 3, 33, 47))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated, but still used by many runtimes
def test_traces_to_a_graph_for_any_size(network: Segmenter) -> None:
    assert_same_outputs(traced(network, (1, 3, 64, 96)), network, (1, 3, 64, 96), (2, 3, 97, 65), (1, 3, 33, 47))


def test_channels_last_keeps_results_and_format(network: Segmenter) -> None:
    images = torch.randn(2, 3, 65, 97)
    expected, maps = network(images), network.features(images)
    network.to(memory_format=torch.channels_last)
    for given in (images, images.to(memory_format=torch.channels_last)):
        assert_close(network(given), expected)
        formats: list[bool] = []
        hooks = [
            module.register_forward_hook(
                lambda _, __, out, formats=formats: formats.append(
                    not isinstance(out, Tensor) or out.is_contiguous(memory_format=torch.channels_last)
                )
            )
            for module in network.modules()
        ]
        for ours, theirs in zip(network.features(given), maps, strict=True):
            assert ours.is_contiguous(memory_format=torch.channels_last)
            assert_close(ours, theirs)
        network.outputs(given)
        assert formats
        assert all(formats)
        for hook in hooks:
            hook.remove()


def test_trains_in_channels_last(network: Segmenter) -> None:
    images = torch.randn(2, 3, 64, 64)
    twin = copy.deepcopy(network).train()
    network.train().to(memory_format=torch.channels_last)
    for each in (network, twin):
        each.double()
        each(images.double()).square().mean().backward()
    assert_same_gradients(network, twin)


def test_bfloat16_autocast(network: Segmenter) -> None:
    images = torch.randn(2, 3, 65, 97)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
        assert network.outputs(images)["out"].dtype == torch.bfloat16
        assert outputs_of(network, images)["out"].dtype == torch.float32
        assert outputs_of(nn.Conv2d(3, 5, 1), images)["out"].dtype == torch.float32
    assert outputs_of(nn.Conv2d(3, 5, 1).double(), images.double())["out"].dtype == torch.float64
    assert_close(logits.float(), network(images), 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        network.train()(images).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


def test_copies_and_pickles() -> None:
    network = lively(create_model(SMALL, num_classes=4))
    images = torch.randn(1, 3, 40, 40)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin.config == network.config
        assert torch.equal(twin(images), network(images))
        twin.get_parameter("conv1.weight").data.zero_()
    assert network.get_parameter("conv1.weight").abs().sum() > 0


def test_outputs_are_computed_once_and_resized_by_forward(network: Segmenter) -> None:
    calls: list[int] = []
    network.get_submodule("conv1").register_forward_hook(lambda *_: calls.append(1))
    images = torch.randn(1, 3, 50, 70)
    logits = network(images)
    assert len(calls) == 1
    out = network.outputs(images)["out"]
    assert out.shape == (1, 5, 13, 18)
    assert torch.equal(logits, nn.functional.interpolate(out, size=(50, 70), mode="bilinear"))


def test_segmenter_is_abstract() -> None:
    for missing in ("features", "outputs"):
        other = {"features": "outputs", "outputs": "features"}[missing]
        incomplete = type("Incomplete", (Segmenter,), {other: lambda network, images: images})
        with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
            incomplete()


# larger ones differ from the last only in width
@pytest.mark.parametrize("name", ["hrnetv2_w18_small_v1", "hrnetv2_w18_small_v2", "hrnetv2_w18"])
def test_folding_batch_norm_keeps_results(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name, init="kaiming", bn_momentum=0.5).double()
    network(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_batch_norm(network)
    assert network.training
    assert not folded.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    images = torch.randn(1, 3, 45, 33, dtype=torch.float64)
    with torch.no_grad():
        assert_close(folded(images), network.eval()(images), 1e-10)
        folded.to(memory_format=torch.channels_last)
        assert_close(folded(images), network(images), 1e-10)
