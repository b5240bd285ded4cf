"""`SegmentationMetrics`: all scores of a validation or test run from one confusion matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from hrseg.errors import ConfigError
from hrseg.metrics import confusion
from hrseg.metrics.confusion import Absent

MEANS = ("miou", "pixel_accuracy", "mean_accuracy", "fwiou", "category_miou")  # the logged results of `compute`


class SegmentationMetrics(Metric):
    """Accumulates an exact confusion matrix over batches and ranks and computes all scores from it.

    Args:
        num_classes: Number of classes, K.
        ignore_index: Value of the pixels in the target that do not count.
        absent: Whether a class that never occurs is left out of the means ("skip", the Cityscapes evaluator) or counts
            as 0 ("zero", the official HRNet code); see `mean_iou`.
        categories: Groups of train ids scored together, by name, from the label table.

    Raises:
        ConfigError: `absent` is neither of them, a category has an unknown class, or the ignore index is a class.
    """

    full_state_update = False

    # of this rank; `compute` returns the sums over all ranks
    matrix: Tensor  # (K, K + 1) int64, see `confusion_matrix`
    unknown: Tensor  # number of pixels by out-of-range value, see `count_pairs`
    images: Tensor  # int64

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        absent: Absent = "skip",
        categories: Mapping[str, Iterable[int]] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.absent = absent
        self.categories = {name: tuple(train_ids) for name, train_ids in (categories or {}).items()}
        if absent not in get_args(Absent):
            raise ConfigError(f"absent={absent!r}; expected one of {', '.join(get_args(Absent))}")
        for name, train_ids in self.categories.items():
            if not train_ids or not all(0 <= train_id < num_classes for train_id in train_ids):
                raise ConfigError(f"category {name!r} of train ids {train_ids}; expected some of 0-{num_classes - 1}")
        matrix = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)
        self.add_state("matrix", matrix, dist_reduce_fx="sum")
        self.add_state("unknown", confusion.unknown_counts(num_classes, ignore_index), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Counts one batch, without a host sync.

        Args:
            preds: (B, H, W) or (H, W), uint8 or int64, predicted classes.
            target: Train ids and the ignore index, of the same shape.
        """
        matrix, unknown = confusion.count_pairs(preds, target, self.num_classes, self.ignore_index)
        self.matrix = self.matrix + matrix  # not in place: the state may be an inference tensor
        self.unknown = self.unknown + unknown
        self.images = self.images + target.shape[:-2].numel()

    def compute(self) -> dict[str, Tensor]:
        """Computes the scores over all ranks, float64 on the CPU, 0 to 1.

        Returns:
            "miou", "pixel_accuracy", "mean_accuracy", "fwiou"; the vectors (K,) "iou" and "accuracy", in which NaN is a
            class that never occurred; with categories also "category_miou" and the vector "category_iou". The counts
            themselves, int64: "matrix" (K, K + 1), see `confusion_matrix`, "pixels" (K,), the labelled pixels of each
            class, and "images". Of a single class, torchmetrics makes scalars of the vectors.

        Raises:
            LabelRangeError: A value was neither a class nor the ignore index.
        """
        confusion.raise_if_unknown(self.unknown, self.num_classes, self.ignore_index)
        matrix = self.matrix.cpu()  # not every device has float64
        scores = {
            "miou": confusion.mean_iou(matrix, self.absent),
            "pixel_accuracy": confusion.pixel_accuracy(matrix),
            "mean_accuracy": confusion.mean_accuracy(matrix, self.absent),
            "fwiou": confusion.frequency_weighted_iou(matrix),
            "iou": confusion.iou_per_class(matrix),
            "accuracy": confusion.accuracy_per_class(matrix),
            "matrix": matrix,
            "pixels": matrix.sum(1),
            "images": self.images.cpu(),
        }
        if self.categories:
            scores["category_iou"] = confusion.category_iou(matrix, self.categories)
            scores["category_miou"] = confusion.mean_of(scores["category_iou"], self.absent)
        return scores
