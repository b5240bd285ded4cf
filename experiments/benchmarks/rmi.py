"""Time and memory of the region mutual information loss, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.interleaved import HRSEG, Row, default_device, require_close, torch_threads
from experiments.benchmarks.workers import compare_apart
from hrseg.losses import RMILoss

PLAIN = "all images and classes at once, inverse"

_NUM_CLASSES, _IGNORE_INDEX = 19, 255


def measure_rmi(
    repeats: int = 10, threads: int = 2, batch_size: int = 2, size: tuple[int, int] = (512, 1024)
) -> list[Row]:
    """Compares `RMILoss` with the formulas of the paper applied to all images and classes at once.

    Args:
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch.
        batch_size: Images.
        size: (height, width) of the target, multiples of 4; the logits have a quarter of it.
    """
    arguments = (batch_size, size)
    with torch_threads(threads):
        require_close(*(_make(side, *arguments)() for side in (HRSEG, PLAIN)))
    case = f"target {batch_size}x{size[0]}x{size[1]}, {_NUM_CLASSES} classes, forward and backward"
    return compare_apart("rmi", case, _make, (HRSEG, PLAIN), arguments, repeats, threads, {}, {})


def _make(side: str, batch_size: int, size: tuple[int, int]) -> Callable[[], Tensor]:
    """Returns a function that returns the gradient of the logits."""
    device = default_device()
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, _NUM_CLASSES + 1, (batch_size, -(-size[0] // 32), -(-size[1] // 32)), generator=generator)
    target = coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, : size[0], : size[1]].byte()
    target = target.masked_fill(target == _NUM_CLASSES, _IGNORE_INDEX).to(device)
    logits = torch.randn(batch_size, _NUM_CLASSES, size[0] // 4, size[1] // 4, generator=generator).to(device)
    logits.requires_grad_()
    loss = RMILoss(_NUM_CLASSES)

    def step() -> Tensor:
        value = loss(logits, target) if side == HRSEG else _straightforward(logits, target)
        (gradient,) = torch.autograd.grad(value, logits)
        return gradient

    return step


def _straightforward(logits: Tensor, target: Tensor) -> Tensor:
    """The loss as configured by NVIDIA: half binary cross-entropy, half RMI."""
    logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
    valid = (target != _IGNORE_INDEX).unsqueeze(1)
    labels = F.one_hot(target.long() * valid[:, 0], _NUM_CLASSES).permute(0, 3, 1, 2).float() * valid
    bce = F.binary_cross_entropy_with_logits(logits, labels, valid.expand_as(labels).float(), reduction="sum")

    def points(maps: Tensor) -> Tensor:
        """The nine values of each 3x3 region, (B, K, 9, P), centred."""
        maps = F.avg_pool2d(maps, 4, 4, 2)
        height, width = (side - 2 for side in maps.shape[-2:])
        shifted = [maps[..., y : y + height, x : x + width].flatten(2) for y in range(3) for x in range(3)]
        stacked = torch.stack(shifted, 2).double()
        return stacked - stacked.mean(3, keepdim=True)

    of_labels, of_probability = points(labels), points(logits.sigmoid() * valid + 1e-6)
    ridge = 5e-4 * torch.eye(9, dtype=torch.float64, device=logits.device)
    inverse = torch.inverse(of_probability @ of_probability.mT + ridge)
    both = of_labels @ of_probability.mT
    conditional = of_labels @ of_labels.mT - both @ inverse @ both.mT
    roots = torch.linalg.cholesky(conditional + ridge).diagonal(dim1=-2, dim2=-1)
    rmi = (roots + 1e-8).log().sum(-1) / 9
    loss: Tensor = 0.5 * bce / (valid.sum() + 1) + 0.5 * rmi.sum(1).mean()
    return loss
