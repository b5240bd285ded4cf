"""Deployment of HRNetV1, HRNetV2p and the classifier: compile, export, trace, copy, save, other formats."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hrseg.models import HRNetClassifier, HRNetV1, HRNetV2p, fold_batch_norm
from hrseg.models.networks.hrnet import HRNet
from tests.networks import (
    TINY,
    assert_close,
    assert_same_gradients,
    assert_same_outputs,
    exported,
    images_of,
    on_meta,
    tensors,
    traced,
)


class NarrowV2p(HRNetV2p):
    """The pyramid with fewer channels, which saves most of the time."""

    out_channels = 16


NETWORKS: dict[str, Callable[..., HRNet]] = {
    "v1": partial(HRNetV1, TINY, 5, init="kaiming", bn_momentum=0.5),
    "v2p": partial(NarrowV2p, TINY, bn_momentum=0.5),
    "classifier": partial(HRNetClassifier, TINY, 5, bn_momentum=0.5),
}


pytestmark = pytest.mark.usefixtures("fresh_compiler")


@cache
def lively(name: str) -> HRNet:
    """In evaluation mode, with running statistics of a few batches."""
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
    """With a short backbone, since compilers are slow; tests/models/test_deployment.py compiles the whole one."""
    network.stage2 = network.stage3 = nn.Sequential()
    if isinstance(network, HRNetV1):  # its last module has one output
        last = network.get_submodule("stage4.0")
        last.branches = nn.ModuleList(nn.Identity() for _ in range(4))
    else:
        network.stage4 = nn.Sequential()
    return network


def test_compiles_as_one_graph(short: HRNet) -> None:
    assert_same_outputs(torch.compile(short, fullgraph=True, backend="eager"), short, (2, 3, 61, 96))


def test_exports_with_dynamic_sizes(short: HRNet) -> None:
    least = 125 if isinstance(short, HRNetV2p) else 33  # the pyramid's coarsest map is smaller
    module = exported(short, (2, 3, least + 31, least + 63), least)
    shapes = (1, 3, least + 31, least + 63), (3, 3, least + 64, least + 32), (1, 3, least, least + 14)
    assert_same_outputs(module, short, *shapes)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated, but still used by many runtimes
def test_traces_to_a_graph_for_any_size(short: HRNet) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = short

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return tensors(self.network(images))

    module = traced(Flat().eval(), (1, 3, 64, 96))
    assert_same_outputs(module, short, (1, 3, 64, 96), (2, 3, 97, 65), (1, 3, 61, 63))


def test_channels_last_keeps_results_and_format(network: HRNet) -> None:
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


def test_folding_batch_norm_keeps_results(network: HRNet) -> None:
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
    assert_same_gradients(saving, network)


def test_stages_to_checkpoint_reach_the_backbone() -> None:
    for build in NETWORKS.values():
        assert on_meta(lambda build=build: build(checkpoint_stages=[2, 4])).checkpoint_stages == {2, 4}
