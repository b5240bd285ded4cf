"""Sliding-window inference of one image."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks.interleaved import (
    HRSEG,
    Row,
    compare,
    default_device,
    require_close,
    time_interleaved,
    torch_threads,
)
from experiments.benchmarks.settled import in_nchw, settled
from hrseg import CITYSCAPES
from hrseg.inference import Predictor, Protocol
from hrseg.models import create_model

SINGLY = "one window at a time"
FOUR = "four windows at once"
PLAIN = "one at a time, NCHW, batch norm as it is"


def measure_windows(
    repeats: int = 10,
    threads: int = 2,
    size: tuple[int, int] = (512, 1024),
    window: tuple[int, int] = (256, 512),
    name: str = "hrnetv2_w18",
) -> list[Row]:
    """Times sliding windows as `Predictor` batches them against fixed numbers at once, and against a plain loop.

    Args:
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch.
        size: (height, width) of the image.
        window: (height, width) of the windows, two thirds of that apart.
        name: The network.
    """
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(default_device())
    stride = (window[0] * 2 // 3, window[1] * 2 // 3)
    with torch_threads(threads), torch.inference_mode():
        plain = settled(create_model(name, init="kaiming"), images)
        ours = Predictor(copy.deepcopy(plain), CITYSCAPES).network
        official = in_nchw(plain)

        def scores(windows_at_once: int | None) -> Tensor:
            protocol = Protocol(window=window, stride=stride, windows_at_once=windows_at_once)
            return protocol.scores(ours, images.contiguous(memory_format=torch.channels_last))

        sides: dict[str, Callable[[], Tensor]] = {
            HRSEG: lambda: scores(None),
            SINGLY: lambda: scores(1),
            FOUR: lambda: scores(4),
            PLAIN: lambda: _one_by_one(official, images, window, stride),
        }
        results = [side() for side in sides.values()]
        for other in results[1:]:
            require_close(results[0], other)
        costs = time_interleaved(sides, repeats)
    case = f"{name} 1x3x{size[0]}x{size[1]}, windows {window[0]}x{window[1]}"
    return compare("windows", case, costs, {})


def _one_by_one(network: nn.Module, images: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """A plain loop, with windows padded at the border."""
    height, width = images.shape[-2:]
    total: Tensor | None = None
    count = images.new_zeros(1, 1, height, width)
    for top in range(0, max(height - window[0], 0) + stride[0], stride[0]):
        for left in range(0, max(width - window[1], 0) + stride[1], stride[1]):
            part = images[..., top : top + window[0], left : left + window[1]]
            rows, columns = part.shape[-2:]
            logits = network(F.pad(part, (0, window[1] - columns, 0, window[0] - rows)))
            if total is None:
                total = logits.new_zeros(1, logits.shape[1], height, width)
            total[..., top : top + rows, left : left + columns] += logits[..., :rows, :columns]
            count[..., top : top + rows, left : left + columns] += 1
    assert total is not None
    return total / count
