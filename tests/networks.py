"""What the tests of networks share."""

from __future__ import annotations

import io
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
    if isinstance(output, Tensor):
        return (output,)
    return tuple(output.values() if isinstance(output, dict) else output)


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    for x, y in zip(tensors(ours), tensors(theirs), strict=True):
        assert x.shape == y.shape
        assert (x - y).abs().max() <= tolerance * y.abs().max()


@torch.no_grad()
def assert_same_outputs(ours: nn.Module, theirs: nn.Module, *shapes: tuple[int, ...], tolerance: float = 1e-5) -> None:
    """On random images of each shape."""
    for shape in shapes:
        images = torch.randn(shape)
        assert_close(ours(images), theirs(images), tolerance)


def assert_same_gradients(ours: nn.Module, theirs: nn.Module, rtol: float = 1e-8, atol: float = 1e-12) -> None:
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.allclose(mine.grad, other.grad, rtol=rtol, atol=atol)


def bytes_kept(forward: Callable[[], Any]) -> int:
    """Bytes of the tensors that a forward pass keeps for the backward pass."""
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = forward()
    del outputs  # which hold what is kept
    return sum(sizes.values())


def exported(network: nn.Module, shape: tuple[int, ...], smallest: int = 33) -> nn.Module:
    """The graph of `torch.export` for any batch, and any height and width from `smallest` on.

    From 33, because it specialises a side of 1, which 32 pixels have on the coarsest branch.
    """
    height, width = torch.export.Dim("height", min=smallest), torch.export.Dim("width", min=smallest)
    sizes = {0: torch.export.Dim("batch"), 2: height, 3: width}
    return torch.export.export(network, (torch.randn(shape),), dynamic_shapes=(sizes,)).module()


def traced(network: nn.Module, shape: tuple[int, ...], check_trace: bool = True) -> nn.Module:
    """The graph of `torch.jit.trace`, saved and loaded."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(network, torch.randn(shape), check_trace=check_trace), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def images_of(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
