"""Update of a confusion matrix with one frame."""

from __future__ import annotations

import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from experiments.benchmarks.interleaved import HRSEG, Row, compare, default_device, time_interleaved, torch_threads
from hrseg.errors import LabelRangeError
from hrseg.metrics import SegmentationMetrics

VALIDATED = "torchmetrics, validate_args=True"
UNVALIDATED = "torchmetrics, validate_args=False"
SPEEDUP = 3.0  # target over `VALIDATED`

_NUM_CLASSES = 19
_IGNORE_INDEX = 255


def measure_metric(repeats: int = 10, threads: int = 2, size: tuple[int, int] = (1024, 2048)) -> list[Row]:
    """Times `SegmentationMetrics.update` against torchmetrics' confusion matrix.

    Args:
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch.
        size: (height, width) of the frame.
    """
    preds, target = _frame(size)
    ours = SegmentationMetrics(_NUM_CLASSES, _IGNORE_INDEX).to(target.device)
    theirs = {
        name: MulticlassConfusionMatrix(_NUM_CLASSES, ignore_index=_IGNORE_INDEX, validate_args=validate).to(
            target.device
        )
        for name, validate in {VALIDATED: True, UNVALIDATED: False}.items()
    }
    _require_equal_counts(ours, list(theirs.values()), preds, target)
    _require_unknown_labels_noticed(preds, target)
    sides = {
        name: lambda metric=metric: metric.update(preds, target) for name, metric in {HRSEG: ours, **theirs}.items()
    }
    with torch_threads(threads):
        return compare(
            "metric", f"one frame {size[0]}x{size[1]}", time_interleaved(sides, repeats), {VALIDATED: SPEEDUP}
        )


def _frame(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and target, (1, H, W) uint8: patches of classes, a tenth of the pixels predicted wrongly."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randint(0, _NUM_CLASSES + 1, (1, -(-size[0] // 32), -(-size[1] // 32)), generator=generator)
    target = patches.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, : size[0], : size[1]].byte()
    guesses = torch.randint(0, _NUM_CLASSES, target.shape, dtype=torch.uint8, generator=generator)
    is_wrong = (torch.rand(target.shape, generator=generator) < 0.1) | (target == _NUM_CLASSES)
    preds = torch.where(is_wrong, guesses, target)
    target[target == _NUM_CLASSES] = _IGNORE_INDEX
    return preds.to(default_device()), target.to(default_device())


def _require_equal_counts(
    ours: SegmentationMetrics, theirs: list[MulticlassConfusionMatrix], preds: torch.Tensor, target: torch.Tensor
) -> None:
    ours.update(preds, target)
    for metric in theirs:
        metric.update(preds, target)
        torch.testing.assert_close(metric.compute(), ours.matrix[:, :-1], rtol=0, atol=0)


def _require_unknown_labels_noticed(preds: torch.Tensor, target: torch.Tensor) -> None:
    metric = SegmentationMetrics(_NUM_CLASSES, _IGNORE_INDEX).to(target.device)
    broken = target.clone()
    broken[0, 0, 0] = _NUM_CLASSES
    metric.update(preds, broken)
    try:
        metric.compute()
    except LabelRangeError:
        return
    raise AssertionError("a label out of range went unnoticed")
