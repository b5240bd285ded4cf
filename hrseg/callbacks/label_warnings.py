"""Warnings, with counts, about labels that cannot be learnt from or scored."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from hrseg.metrics.confusion import count_values
from hrseg.task import SegmentationTask
from hrseg.utils.checks import join_first

_log = logging.getLogger(__name__)

_VALUES = 256  # uint8 labels
_DOMINANT = 0.999  # share of the total class weight above which the other classes hardly learn


class LabelWarnings(Callback):
    """Warns of labels that are all ignored, absent classes, class weights dominated by one class, and a loss of 0.

    Training labels are counted on the device during the first epoch; validation and test labels are taken from the
    confusion matrix. Absent classes are reported only after complete epochs.
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None  # pixels by label value; last, steps with a non-zero loss
        self._is_from_start = False
        self._warned: set[str] = set()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the labels of a batch without a host sync."""
        target = batch.get("target") if isinstance(batch, Mapping) else None
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        if "train" in self._warned or not isinstance(target, Tensor) or not isinstance(loss, Tensor):
            return
        if self._counts is None:
            self._counts = torch.zeros(_VALUES + 1, dtype=torch.int64, device=target.device)
            self._is_from_start = batch_idx == 0  # False in an epoch resumed midway
        self._counts[:_VALUES] += count_values(target.flatten().long().clamp(0, _VALUES - 1), _VALUES)
        self._counts[_VALUES] += loss.detach() != 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the labels of the first epoch."""
        if self._counts is None or "train" in self._warned:
            return
        assert isinstance(pl_module, SegmentationTask)
        counts, self._counts = self._counts, None
        if distributed.is_initialized():
            distributed.all_reduce(counts)
        *pixels, steps = counts.tolist()
        is_ended = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        is_whole = self._is_from_start and is_ended and _is_all(trainer.limit_train_batches)
        self._warn(trainer, "train", _training_warnings(pl_module, pixels, steps, is_whole))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the labels of the validation split."""
        if not trainer.sanity_checking:
            self._check_scores(trainer, pl_module, "val", _is_all(trainer.limit_val_batches))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the labels of the test split."""
        self._check_scores(trainer, pl_module, "test", _is_all(trainer.limit_test_batches))

    def _check_scores(self, trainer: Trainer, pl_module: LightningModule, stage: str, is_whole: bool) -> None:
        assert isinstance(pl_module, SegmentationTask)
        if stage not in self._warned:
            scores = pl_module.metrics.compute()
            pixels, images = scores["pixels"].flatten().tolist(), int(scores["images"])
            if images:  # a custom task may count none
                self._warn(trainer, stage, _score_warnings(pl_module, stage, pixels, images, is_whole))

    def _warn(self, trainer: Trainer, stage: str, found: Iterator[str]) -> None:
        self._warned.add(stage)
        for text in found:
            if trainer.is_global_zero:
                _log.warning("%s", text)


def _is_all(limit: object) -> bool:
    """Whether a Lightning `limit_*_batches` keeps all batches: 1 is one batch, 1.0 all."""
    return isinstance(limit, float) and limit == 1.0


def _training_warnings(task: SegmentationTask, pixels: list[int], steps: int, is_whole: bool) -> Iterator[str]:
    """Warnings about training labels.

    Args:
        task: The task.
        pixels: Count of each label value.
        steps: Number of steps with a non-zero loss.
        is_whole: Whether every sample was seen.
    """
    labels = task.labels
    of_class = pixels[: labels.num_classes]
    total = sum(of_class)
    where = "of the training crops in the first epoch"
    if not total:
        yield (
            f"all {sum(pixels):,} pixels {where} are ignored ({labels.ignore_index}), and nothing is learnt; "
            "does the class table fit the files? `hrseg verify` counts their values"
        )
    elif steps == 0:
        reason = ": with one class there is nothing to tell apart" if labels.num_classes == 1 else ""
        yield f"the training loss was 0 in every step of the first epoch, and nothing is learnt{reason}"
    if total and is_whole and (missing := _never(labels.class_names, of_class)):
        yield f"{missing} among the {total:,} labelled pixels {where}"
    for weights in _class_weights(task):
        yield from _weight_warnings(labels.class_names, of_class, weights)


def _score_warnings(
    task: SegmentationTask, stage: str, pixels: list[int], images: int, is_whole: bool
) -> Iterator[str]:
    """Warnings about validation or test labels; arguments as in `_training_warnings`."""
    total = sum(pixels)
    if not total:
        yield (
            f"{stage}: all pixels of the {images:,} labels are ignored ({task.labels.ignore_index}), and the scores "
            "are meaningless; does the class table fit the files? `hrseg verify` counts their values"
        )
    elif is_whole and (missing := _never(task.labels.class_names, pixels)):
        in_mean = "counts as 0 in the means" if task.metrics.absent == "zero" else "is left out of the means"
        yield f"{stage}: {missing} among the {total:,} labelled pixels of {images:,} images; such a class {in_mean}"


def _weight_warnings(names: tuple[str, ...], pixels: list[int], weights: tuple[float, ...]) -> Iterator[str]:
    """Warnings about class weights, given the pixel count of each class."""
    total = sum(pixels)
    unweighted = [name for name, weight in zip(names, weights, strict=True) if weight == 0]
    if unweighted and (lost := sum(n for n, weight in zip(pixels, weights, strict=True) if weight == 0)):
        yield f"class weights of 0 leave out {lost:,} of {total:,} labelled pixels: {join_first(unweighted, 12)}"
    by_class = [weight * number for weight, number in zip(weights, pixels, strict=True)]
    heaviest = max(range(len(names)), key=by_class.__getitem__)
    others = total - pixels[heaviest]
    if others and by_class[heaviest] > _DOMINANT * sum(by_class) and pixels[heaviest] < _DOMINANT * total:
        yield (
            f"class weights give {names[heaviest]}, {pixels[heaviest]:,} of {total:,} labelled pixels, more than "
            f"{_DOMINANT:.1%} of the weight ({weights[heaviest]:g}): the other classes hardly count"
        )


def _class_weights(task: SegmentationTask) -> list[tuple[float, ...]]:
    """The distinct class weights of the losses."""
    weights = [getattr(module, "class_weights", None) for module in task.loss.modules()]
    listed = [tuple(each.tolist()) for each in weights if isinstance(each, Tensor)]
    return list(dict.fromkeys(each for each in listed if len(each) == task.labels.num_classes))


def _never(names: tuple[str, ...], pixels: list[int]) -> str:
    """A phrase naming the classes without pixels; empty if there are none."""
    missing = [name for name, number in zip(names, pixels, strict=True) if not number]
    return f"{len(missing)} of {len(names)} classes never occur ({join_first(missing, 12)})" if missing else ""
