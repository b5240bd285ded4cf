"""Scores of semantic segmentation, as functions of one confusion matrix of whole numbers.

A confusion matrix here is (K, K + 1) int64 and counts valid pixels: row = class in the target, column = predicted
class. The last column counts pixels whose prediction is no class, which happens when label files are scored: they
count against their class, as in the Cityscapes evaluator. Pixels that the target ignores stand nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from hrseg.errors import ConfigError, LabelRangeError

Absent = Literal["skip", "zero"]

_CHUNK = 1 << 17  # pixels; what is computed in between stays in the cache: three times as fast as a frame at once


def confusion_matrix(preds: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Counts the pairs of target class and predicted class.

    Args:
        preds: Predicted classes, uint8 or int64, any shape; the ignore index where the prediction is no class.
        target: Train ids and the ignore index, uint8 or int64, of the same shape.
        num_classes: Number of classes, K.
        ignore_index: Value of the pixels in the target that do not count.

    Returns:
        (K, K + 1) int64.

    Raises:
        LabelRangeError: A value is neither a class nor the ignore index.
        ConfigError: The tensors do not fit each other, or the ignore index is a class.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1, 255]), torch.tensor([0, 0, 255, 1]), num_classes=2)
        tensor([[1, 1, 0],
                [0, 0, 1]])
    """
    matrix, unknown = count_pairs(preds, target, num_classes, ignore_index)
    raise_if_unknown(unknown, num_classes, ignore_index)
    return matrix


def count_pairs(preds: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Counts like `confusion_matrix`, but only counts values out of range, so that the host need not wait for a device.

    Args:
        preds: As for `confusion_matrix`.
        target: As for `confusion_matrix`.
        num_classes: Number of classes, K.
        ignore_index: Value of the pixels in the target that do not count.

    Returns:
        The confusion matrix, and the pixels by value out of range for `raise_if_unknown`, (2, values) int64, in the
        target and in the predictions.
    """
    if preds.shape != target.shape or preds.is_floating_point() or target.is_floating_point():
        raise ConfigError(
            f"predictions {tuple(preds.shape)} {preds.dtype} for a target {tuple(target.shape)} {target.dtype}; "
            "expected whole numbers of the same shape, such as logits.argmax(1)"
        )
    low, high = _value_range(num_classes, ignore_index)
    joint = _joint_histogram(preds.flatten(), target.flatten(), low, high)
    classes, ignored = slice(-low, num_classes - low), ignore_index - low
    matrix = torch.cat([joint[classes, classes], joint[classes, ignored, None]], dim=1)
    unknown = torch.stack([joint.sum(1), joint.sum(0)])
    unknown[:, classes] = 0
    unknown[:, ignored] = 0
    return matrix, unknown


def unknown_counts(num_classes: int, ignore_index: int) -> Tensor:
    """The second result of `count_pairs` before anything is counted."""
    low, high = _value_range(num_classes, ignore_index)
    return torch.zeros(2, high - low + 1, dtype=torch.int64)


def raise_if_unknown(unknown: Tensor, num_classes: int, ignore_index: int) -> None:
    """Checks what `count_pairs` found out of range; waits for the device.

    Raises:
        LabelRangeError: A value was neither a class nor the ignore index; the message lists the first few.
    """
    low, high = _value_range(num_classes, ignore_index)
    for counts, where in zip(unknown.cpu(), ("the target", "the predictions"), strict=True):
        values = [int(position) + low for position in counts.nonzero()]
        if values:
            bounds = {low: f"{low} or less", high: f"{high} or more"}
            found = ", ".join(f"{bounds.get(v, v)} ({int(counts[v - low])} pixels)" for v in values[:5])
            raise LabelRangeError(
                f"value {found} in {where}; expected 0-{num_classes - 1} and {ignore_index}. "
                "Were label ids given where train ids are expected?"
            )


def _value_range(num_classes: int, ignore_index: int) -> tuple[int, int]:
    """The least and greatest value that are told apart: one more on each side than the valid ones."""
    if 0 <= ignore_index < num_classes or not -256 <= ignore_index < 65536:
        raise ConfigError(f"ignore index {ignore_index} with {num_classes} classes; expected 255")
    return min(0, ignore_index) - 1, max(num_classes - 1, ignore_index) + 1


def _joint_histogram(preds: Tensor, target: Tensor, low: int, high: int) -> Tensor:
    """Counts pairs of values, (values, values) int64, row = target; what lies beyond the range counts at its ends."""
    size = high - low + 1
    counts = torch.zeros(size * size, dtype=torch.int64, device=target.device)
    chunk = max(target.numel(), 1) if target.is_cuda else _CHUNK
    for preds_part, target_part in zip(torch.split(preds, chunk), torch.split(target, chunk), strict=True):
        rows, columns = (part.long().clamp(low, high).sub_(low) for part in (target_part, preds_part))
        pairs = rows.mul_(size).add_(columns)
        counts += count_values(pairs, size * size)
    return counts.view(size, size)


def count_values(values: Tensor, number: int) -> Tensor:
    """Counts how often each value occurs, without making the host wait for the device.

    Args:
        values: (N,) int64, from 0 to below `number`.
        number: How many values there are.

    Returns:
        (number,) int64.

    Example:
        >>> count_values(torch.tensor([0, 2, 2]), 4)
        tensor([1, 0, 2, 0])
    """
    if not values.is_cuda:
        return torch.bincount(values, minlength=number)
    counts = torch.zeros(number, dtype=torch.int64, device=values.device)  # bincount looks at the largest value
    return counts.scatter_add_(0, values, torch.ones_like(values))


def iou_per_class(matrix: Tensor) -> Tensor:
    """Intersection over union of each class, (K,) float64; NaN for a class in neither target nor predictions.

    Example:
        >>> iou_per_class(torch.tensor([[3, 1, 0], [0, 0, 0]]))
        tensor([0.7500, 0.0000], dtype=torch.float64)
    """
    hits = _hits(matrix)
    return hits.double() / (matrix.sum(1) + matrix[:, :-1].sum(0) - hits)


def accuracy_per_class(matrix: Tensor) -> Tensor:
    """Share of each class's pixels that are predicted right, (K,) float64; NaN for a class not in the target."""
    return _hits(matrix).double() / matrix.sum(1)


def mean_iou(matrix: Tensor, absent: Absent = "skip") -> Tensor:
    """Mean of the classes' intersection over union, the mIoU.

    Args:
        matrix: (K, K + 1) confusion matrix.
        absent: What to do with a class in neither target nor predictions: "skip" leaves it out of the mean, as the
            Cityscapes evaluator does, so for every Cityscapes number from the test server; "zero" counts it as 0, as
            the official HRNet code does, so for its own Cityscapes val, PASCAL-Context and LIP numbers. The two differ
            only where a class never occurs, so on subsets, not on the complete sets.

    Returns:
        Scalar float64.

    Source:
        cityscapesscripts, evalPixelLevelSemanticLabeling.py; HRNet-Semantic-Segmentation, lib/core/function.py.
    """
    return mean_of(iou_per_class(matrix), absent)


def mean_accuracy(matrix: Tensor, absent: Absent = "skip") -> Tensor:
    """Mean over classes of `accuracy_per_class`, scalar float64; `absent` (from the target) as for `mean_iou`."""
    return mean_of(accuracy_per_class(matrix), absent)


def pixel_accuracy(matrix: Tensor) -> Tensor:
    """Share of the valid pixels that are predicted right, scalar float64; NaN where there is none."""
    return _hits(matrix).sum().double() / matrix.sum()


def frequency_weighted_iou(matrix: Tensor) -> Tensor:
    """Mean of the classes' intersection over union weighted by their pixels, scalar float64; NaN without pixels."""
    frequency = matrix.sum(1).double() / matrix.sum()
    return (frequency * iou_per_class(matrix).nan_to_num()).sum()


def category_iou(matrix: Tensor, categories: Mapping[str, Iterable[int]]) -> Tensor:
    """Intersection over union of groups of classes, in which confusion within a group is no error.

    Args:
        matrix: (K, K + 1) confusion matrix.
        categories: Train ids by category.

    Returns:
        (number of categories,) float64, in the order of `categories`; NaN for a category in neither target nor
        predictions.

    Source:
        cityscapesscripts, evalPixelLevelSemanticLabeling.py (getIouScoreForCategory).
    """
    scores = []
    for train_ids in categories.values():
        members = list(train_ids)
        rows, columns = matrix[members], matrix[:, members]
        hits = rows[:, members].sum()
        scores.append(hits.double() / (rows.sum() + columns.sum() - hits))
    return torch.stack(scores)


def mean_of(scores: Tensor, absent: Absent) -> Tensor:
    """Mean of scores in which NaN stands for an absent class; `absent` as for `mean_iou`."""
    return scores.nanmean() if absent == "skip" else scores.nan_to_num().mean()


def _hits(matrix: Tensor) -> Tensor:
    return matrix.diagonal()
