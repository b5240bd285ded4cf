"""What the tests of networks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hrseg.models import HRNetVariant

TINY = HRNetVariant(8, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=4)


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
