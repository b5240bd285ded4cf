"""Variants of networks for GPUs compute what the networks compute, as far as a CPU can tell."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from experiments.benchmarks.gpu_variants import CudnnBlock, EarlyHead, ParallelModule, pad_channels, swap
from hrseg.models import HRNetV2, HRNetVariant, fold_batch_norm
from tests.networks import assert_same_outputs

NARROW = HRNetVariant(6, blocks=1, modules=(1, 1, 1), layer1_blocks=2, layer1_width=5)
LAYERS = (EarlyHead, CudnnBlock, ParallelModule)


def folded(align_corners: bool = False) -> HRNetV2:
    torch.manual_seed(0)
    network = HRNetV2(NARROW, num_classes=5, align_corners=align_corners).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias)
    return fold_batch_norm(network.eval())


@pytest.fixture(autouse=True)
def double_precision() -> object:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_padded_channels_are_zero_and_change_nothing() -> None:
    network = folded()
    padded = pad_channels(network)
    assert_same_outputs(padded, network, (2, 3, 64, 96), (1, 3, 33, 47), tolerance=1e-13)
    convolutions = [module for module in padded.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.in_channels % 8 == 0 for conv in convolutions if conv is not padded.conv1)
    assert all(conv.out_channels % 8 == 0 for conv in convolutions if conv is not padded.last_layer[3])
    images = torch.randn(1, 3, 64, 64)
    for wide, narrow in zip(padded.features(images), network.features(images), strict=True):
        channels = narrow.shape[1]
        assert wide.shape[1] == -(-channels // 8) * 8
        assert torch.count_nonzero(wide[:, channels:]) == 0
    assert network.widths == (6, 12, 24, 48)  # the original is intact
    assert network.last_layer[0].in_channels == 90


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "layers", [(EarlyHead,), (CudnnBlock,), (ParallelModule,), (EarlyHead, CudnnBlock, ParallelModule)]
)
def test_swapped_layers_change_nothing(layers: tuple[type[nn.Module], ...], align_corners: bool) -> None:
    network = folded(align_corners)
    changed = swap(folded(align_corners), *layers)
    assert {type(module) for module in changed.modules()} >= set(layers)
    assert_same_outputs(changed, network, (2, 3, 64, 96), tolerance=1e-13)
    assert_same_outputs(swap(pad_channels(network), *layers), network, (1, 3, 64, 64), tolerance=1e-13)
