from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hrseg.errors import ConfigError, LabelRangeError
from hrseg.metrics import (
    accuracy_per_class,
    category_iou,
    confusion_matrix,
    frequency_weighted_iou,
    iou_per_class,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)
from hrseg.metrics.confusion import count_pairs
from tests.references import metrics as reference

K = 5
CATEGORIES = {"left": (0, 3), "one": (2,), "right": (1, 4)}


def labels(seed: int, absent: int | None = None, dtype: torch.dtype = torch.uint8) -> tuple[Tensor, Tensor]:
    """Predictions and target of two small images, with ignored pixels in both, and one class absent."""
    generator = np.random.default_rng(seed)
    values = [value for value in (*range(K), 255) if value != absent]
    preds, target = generator.choice(values, (2, 2, 9, 11))
    return torch.from_numpy(preds).to(dtype), torch.from_numpy(target).to(dtype)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("absent", [None, 3])
def test_scores_equal_the_slow_reference(seed: int, absent: int | None) -> None:
    preds, target = labels(seed, absent)
    matrix = confusion_matrix(preds, target, K)
    p, t = preds.numpy(), target.numpy()
    assert matrix.dtype == torch.int64
    assert np.array_equal(matrix.numpy(), reference.confusion_matrix(p, t, K))

    iou = [reference.iou(p, t, {k}) for k in range(K)]
    accuracy = [reference.accuracy(p, t, k) for k in range(K)]
    share = [(t == k).sum() / (t != 255).sum() for k in range(K)]
    assert iou_per_class(matrix).tolist() == pytest.approx(iou, abs=1e-15, nan_ok=True)
    assert accuracy_per_class(matrix).tolist() == pytest.approx(accuracy, abs=1e-15, nan_ok=True)
    assert mean_iou(matrix).item() == pytest.approx(np.nanmean(iou), abs=1e-15)
    assert mean_iou(matrix, "zero").item() == pytest.approx(np.nansum(iou) / K, abs=1e-15)
    assert mean_accuracy(matrix).item() == pytest.approx(np.nanmean(accuracy), abs=1e-15)
    assert mean_accuracy(matrix, "zero").item() == pytest.approx(np.nansum(accuracy) / K, abs=1e-15)
    assert pixel_accuracy(matrix).item() == pytest.approx((p == t)[t != 255].mean(), abs=1e-15)
    assert frequency_weighted_iou(matrix).item() == pytest.approx(np.nansum(np.multiply(share, iou)), abs=1e-15)
    groups = [reference.iou(p, t, set(group)) for group in CATEGORIES.values()]
    assert category_iou(matrix, CATEGORIES).tolist() == pytest.approx(groups, abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("absent", [None, 3])
def test_zero_for_absent_classes_is_the_official_code(seed: int, absent: int | None) -> None:
    preds, target = labels(seed, absent)
    preds = torch.where(preds == 255, 0, preds)  # the official matrix has no place for a prediction that is no class
    matrix = confusion_matrix(preds, target, K)
    counts = matrix[:, :K].numpy()
    pos, res, tp = counts.sum(1), counts.sum(0), counts.diagonal()
    assert mean_iou(matrix, "zero").item() == pytest.approx((tp / np.maximum(1.0, pos + res - tp)).mean(), abs=1e-15)
    assert mean_accuracy(matrix, "zero").item() == pytest.approx((tp / np.maximum(1.0, pos)).mean(), abs=1e-15)
    assert pixel_accuracy(matrix).item() == pytest.approx(tp.sum() / pos.sum(), abs=1e-15)


def test_a_class_predicted_but_not_there_counts_as_zero_not_as_absent() -> None:
    matrix = confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 0]), num_classes=3)
    iou = iou_per_class(matrix)
    assert iou[:2].tolist() == [0.5, 0.0]
    assert math.isnan(iou[2])
    assert mean_iou(matrix) == 0.25
    assert mean_iou(matrix, "zero") == pytest.approx(0.5 / 3)


def test_nothing_counted() -> None:
    empty = torch.full((2, 3), 255)
    matrix = confusion_matrix(empty, empty, K)
    assert not matrix.any()
    for score in (mean_iou, mean_accuracy, pixel_accuracy, frequency_weighted_iou):
        assert math.isnan(score(matrix))
    assert mean_iou(matrix, "zero") == 0
    assert category_iou(matrix, CATEGORIES).isnan().all()
    assert not confusion_matrix(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8), K).any()


@pytest.mark.parametrize("ignore_index", [255, 5, -1, 300])
@pytest.mark.parametrize("dtypes", [(torch.uint8, torch.uint8), (torch.int64, torch.uint8), (torch.int64, torch.int64)])
def test_kinds_of_whole_numbers_and_ignore_index(ignore_index: int, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    preds, target = labels(0)
    expected = confusion_matrix(preds, target, K)
    if not 0 <= ignore_index <= 255 and torch.uint8 in dtypes:
        dtypes = (torch.int64, torch.int32)
    renamed = [
        labels.long().masked_fill(labels == 255, ignore_index).to(dtype)
        for labels, dtype in zip((preds, target), dtypes, strict=True)
    ]
    before = [labels.clone() for labels in renamed]
    assert torch.equal(confusion_matrix(*renamed, K, ignore_index), expected)
    assert all(torch.equal(labels, copy) for labels, copy in zip(renamed, before, strict=True))


def test_more_pixels_than_a_chunk_and_any_memory_layout() -> None:
    generator = np.random.default_rng(0)
    preds, target = (torch.from_numpy(generator.choice([0, 1, 2, 255], (3, 700, 500))) for _ in range(2))
    codes = np.where(target == 255, 4, target) * 5 + np.where(preds == 255, 3, preds)
    expected = np.bincount(codes.ravel(), minlength=25).reshape(5, 5)[:3, :4]
    assert np.array_equal(confusion_matrix(preds, target.to(torch.uint8), 3).numpy(), expected)
    transposed = confusion_matrix(preds.transpose(1, 2), target.transpose(1, 2), 3)
    assert np.array_equal(transposed.numpy(), expected)


@pytest.mark.parametrize(
    ("value", "dtype", "shown"),
    [(34, torch.uint8, r"34 \(1 pixels\)"), (5, torch.int64, "5"), (-1, torch.int64, "-1 or less"),
     (-(2**40), torch.int64, "-1 or less"), (2**40, torch.int64, "256 or more"), (254, torch.uint8, "254")],
)  # fmt: skip
@pytest.mark.parametrize("where", ["target", "predictions"])
def test_values_out_of_range(value: int, dtype: torch.dtype, shown: str, where: str) -> None:
    preds, target = labels(0, dtype=dtype)
    (target if where == "target" else preds)[0, 0, 0] = value
    with pytest.raises(LabelRangeError, match=f"value {shown}.* in the {where}; expected 0-4 and 255"):
        confusion_matrix(preds, target, K)


def test_a_wrong_prediction_under_an_ignored_pixel_is_caught() -> None:
    with pytest.raises(LabelRangeError, match="value 7 "):
        confusion_matrix(torch.tensor([7]), torch.tensor([255]), K)


@pytest.mark.parametrize(
    "preds", [torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.int64)], ids=["logits", "other shape"]
)
def test_tensors_that_do_not_fit(preds: Tensor) -> None:
    with pytest.raises(ConfigError, match="expected whole numbers of the same shape"):
        confusion_matrix(preds, torch.zeros(2, 3, dtype=torch.uint8), K)


@pytest.mark.parametrize("ignore_index", [0, 4, -1000])
def test_ignore_index_out_of_range(ignore_index: int) -> None:
    with pytest.raises(ConfigError, match="ignore index"):
        confusion_matrix(torch.tensor([0]), torch.tensor([0]), K, ignore_index)


def test_counting_on_a_gpu_does_not_wait_for_it() -> None:
    with FakeTensorMode():  # it has no values, so that reading one raises
        preds = torch.zeros(2, 6, 7, device="cuda", dtype=torch.int64)
        matrix, unknown = count_pairs(preds, preds.to(torch.uint8), K, 255)
    assert matrix.shape == (K, K + 1)
    assert unknown.shape == (2, 258)
    assert (matrix.dtype, matrix.device.type) == (torch.int64, "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_counts_on_a_gpu_are_those_on_the_cpu() -> None:
    preds, target = labels(0)
    assert torch.equal(confusion_matrix(preds.cuda(), target.cuda(), K).cpu(), confusion_matrix(preds, target, K))
