"""Time and memory of HRFormer's window attention, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks.interleaved import HRSEG, Row, default_device, torch_threads
from experiments.benchmarks.settled import settled
from experiments.benchmarks.workers import compare_apart
from hrseg.models import create_model
from hrseg.models.networks.folding import fold_batch_norm
from hrseg.models.networks.window_attention import WindowAttention

LOOP = "window by window, softmax written out"
SPEEDUP = 1.3  # target over `LOOP` on a CPU
MEMORY_RATIO = 1.0  # target of the memory of `LOOP` relative to hrseg


def measure_hrformer(
    repeats: int = 10, threads: int = 2, size: tuple[int, int] = (512, 1024), name: str = "hrformer_s"
) -> list[Row]:
    """Compares the attention of all windows at once with a loop over the windows, in otherwise identical networks.

    Forward and backward are measured on an image of half that height and width, as the loop takes so long. Batch norm
    is folded into the convolutions.

    Args:
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch.
        size: (height, width) of the image.
        name: A network without a head for segmentation, whose convolutions take as long as all the rest.
    """
    half = (size[0] // 2, size[1] // 2)
    with torch_threads(threads):
        _require_same(name, half)
    rows = []
    for backward, (height, width) in ((False, size), (True, half)):
        rows += compare_apart(
            "hrformer",
            f"{name} 1x3x{height}x{width}, {'forward and backward' if backward else 'forward'}",
            _make,
            (HRSEG, LOOP),
            (name, (height, width), backward),
            repeats,
            threads,
            {LOOP: SPEEDUP},
            {LOOP: MEMORY_RATIO},
        )
    return rows


def _require_same(name: str, size: tuple[int, int]) -> None:
    """Raises an AssertionError unless both alternatives have the same logits and gradients.

    In double precision: in single precision rounding changes the gradients of so deep a network by half a percent.
    """
    results = []
    for side in (HRSEG, LOOP):
        network, images = _build(side, name, size)
        logits = network.double()(images.double())
        gradients = torch.autograd.grad(logits.square().mean(), list(network.parameters()))
        results.append([logits.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * float(other.abs().max()) + 1e-12)


def _make(side: str, name: str, size: tuple[int, int], backward: bool) -> Callable[[], Tensor]:
    """Returns a function that returns the logits."""
    network, images = _build(side, name, size)

    def step() -> Tensor:
        network.zero_grad()
        logits: Tensor = network(images)
        logits.square().mean().backward()  # type: ignore[no-untyped-call]
        return logits.detach()

    return step if backward else torch.inference_mode()(lambda: network(images))


def _build(side: str, name: str, size: tuple[int, int]) -> tuple[nn.Module, Tensor]:
    """The network in evaluation mode, and an image."""
    torch.manual_seed(0)
    images = torch.randn(1, 3, *size, device=default_device()).contiguous(memory_format=torch.channels_last)
    network = create_model(name)
    network.to(memory_format=torch.channels_last)
    with torch.no_grad():
        settled(network, images)
    network = fold_batch_norm(network).requires_grad_()  # folded as in `Predictor`
    if side == LOOP:
        for block in list(network.modules()):
            for child, module in list(block.named_children()):
                if isinstance(module, WindowAttention):
                    setattr(block, child, _Loop(module))
    return network, images


class _Loop(nn.Module):
    """`WindowAttention` by its formula, with the same weights."""

    def __init__(self, windows: WindowAttention) -> None:
        super().__init__()
        self.attn = windows.attn
        self.window_size = windows.window_size

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, h, w, C) to the same shape."""
        side, (height, width) = self.window_size, x.shape[1:3]
        below, beside = -height % side, -width % side
        top, left = below // 2, beside // 2
        x = F.pad(x, (0, 0, left, beside - left, top, below - top))
        bias = self.attn.relative_position_bias_table[self.attn.relative_position_index].permute(2, 0, 1)
        bands = []
        for y in range(0, height + below, side):
            windows = [
                torch.stack([self._attend(image, bias) for image in x[:, y : y + side, x_ : x_ + side]])
                for x_ in range(0, width + beside, side)
            ]
            bands.append(torch.cat(windows, 2))
        return torch.cat(bands, 1)[:, top : top + height, left : left + width]

    def _attend(self, window: Tensor, bias: Tensor) -> Tensor:
        attention = self.attn
        tokens = window.flatten(0, 1)
        query, key, value = (
            project(tokens).unflatten(1, (attention.heads, -1)).transpose(0, 1)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        shares = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]) + bias).softmax(-1)
        out: Tensor = attention.out_proj((shares @ value).transpose(0, 1).flatten(1))
        return out.view(window.shape)
