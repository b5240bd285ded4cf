from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrseg.models.cpu import SplitV2Head
from hrseg.models.networks.folding import fold_batch_norm
from hrseg.models.networks.hrnetv2 import V2Head

WIDTHS = (3, 6, 12, 24)


def maps_of(height: int, width: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(2, channels, -(-height // 2**k), -(-width // 2**k), generator=generator, dtype=torch.float64)
        for k, channels in enumerate(WIDTHS)
    )


def official_head(head: V2Head, maps: tuple[Tensor, ...]) -> Tensor:
    """The head as published: all maps concatenated at the finest size, then the layers."""
    size = maps[0].shape[-2:]
    x = torch.cat([F.interpolate(m, size, mode="bilinear", align_corners=head.align_corners) for m in maps], 1)
    for layer in head:
        x = layer(x)
    return x


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(16, 24), (13, 9)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [V2Head, SplitV2Head])
def test_logits_and_gradients_equal_the_official_head(
    kind: type[V2Head], training: bool, size: tuple[int, int], align_corners: bool
) -> None:
    torch.manual_seed(0)
    ours = kind(WIDTHS, 5, align_corners).double().train(training)
    theirs = copy.deepcopy(ours)
    maps = [x.requires_grad_() for x in maps_of(*size)]
    expected_maps = [x.detach().clone().requires_grad_() for x in maps]
    logits, expected = ours(tuple(maps)), official_head(theirs, tuple(expected_maps))
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    for result in (logits, expected):
        result.square().sum().backward()
    for x, y in zip((*maps, *ours.parameters()), (*expected_maps, *theirs.parameters()), strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-9, atol=1e-9)
    for x, y in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("kind", [V2Head, SplitV2Head])
def test_folding_batch_norm_keeps_results(kind: type[V2Head]) -> None:
    torch.manual_seed(0)
    head = kind(WIDTHS, 5, align_corners=False).double().eval()
    maps = maps_of(13, 9)
    expected = official_head(head, maps)
    torch.testing.assert_close(fold_batch_norm(head)(maps), expected, rtol=1e-9, atol=1e-9)
