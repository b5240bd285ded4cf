from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from hrseg.errors import ConfigError, LabelRangeError
from hrseg.metrics import SegmentationMetrics, confusion_matrix, mean_iou
from tests.processes import CONTEXT

K = 5
CATEGORIES = {"left": (0, 3), "right": (1, 2, 4)}


def labels(seed: int, number: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    preds = torch.randint(0, K, (number, 16, 24), generator=generator)
    target = torch.where(torch.rand(preds.shape, generator=generator) < 0.6, preds, preds.roll(1, -1)).to(torch.uint8)
    target[:, :2] = 255
    return preds, target


def test_counts_over_batches_are_those_of_all_at_once() -> None:
    preds, target = labels(0, number=6)
    metrics = SegmentationMetrics(K, categories=CATEGORIES)
    for part in (slice(0, 1), slice(1, 3), slice(3, 6)):
        metrics.update(preds[part], target[part])
    assert torch.equal(metrics.matrix, confusion_matrix(preds, target, K))
    scores = metrics.compute()
    assert set(scores) == {
        "miou", "pixel_accuracy", "mean_accuracy", "fwiou", "iou", "accuracy", "pixels", "category_iou",
        "category_miou", "matrix", "images",
    }  # fmt: skip
    assert torch.equal(scores.pop("pixels"), torch.bincount(target[target < K].flatten().long(), minlength=K))
    assert torch.equal(scores.pop("matrix"), confusion_matrix(preds, target, K))
    assert scores.pop("images") == 6
    assert all(score.dtype == torch.float64 for score in scores.values())
    assert torch.equal(scores["miou"], scores["iou"].mean())
    assert torch.equal(scores["category_miou"], scores["category_iou"].mean())


def test_without_categories_there_are_no_category_scores() -> None:
    metrics = SegmentationMetrics(K)
    metrics.update(*labels(0))
    assert not any(name.startswith("category") for name in metrics.compute())


@pytest.mark.parametrize("absent", ["skip", "zero"])
def test_absent_classes(absent: str) -> None:
    metrics = SegmentationMetrics(K + 1, absent=absent, categories={"there": (0, 1), "absent": (K,)})
    metrics.update(*labels(0))
    scores = metrics.compute()
    assert scores["iou"][K].isnan()
    for mean, vector in (("miou", "iou"), ("mean_accuracy", "accuracy"), ("category_miou", "category_iou")):
        there = scores[vector][~scores[vector].isnan()]
        number = len(there) if absent == "skip" else len(scores[vector])
        assert scores[mean].item() == pytest.approx(there.sum().item() / number)


def test_values_out_of_range_are_reported_by_compute() -> None:
    preds, target = labels(0)
    target[0, 5, 5] = 34
    metrics = SegmentationMetrics(K)
    metrics.update(preds, target)
    metrics.update(*labels(1))
    with pytest.raises(LabelRangeError, match=r"value 34 \(1 pixels\) in the target; expected 0-4 and 255"):
        metrics.compute()
    metrics.reset()
    metrics.update(*labels(1))
    assert metrics.compute()["miou"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"absent": "ignore"}, "absent='ignore'; expected one of skip, zero"),
        ({"categories": {"left": (0, K)}}, "category 'left'"),
        ({"categories": {"left": ()}}, "category 'left'"),
        ({"ignore_index": 2}, "ignore index 2 with 5 classes"),
    ],
)
def test_settings_out_of_range(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentationMetrics(K, **arguments)


def test_counts_beyond_the_exact_range_of_floats() -> None:
    metrics = SegmentationMetrics(2)
    metrics.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    metrics.matrix = metrics.matrix + 2**55
    metrics.update(torch.tensor([0]), torch.tensor([0]))
    assert metrics.matrix[0, 0].item() == 2**55 + 2


def test_update_after_a_reset_in_inference_mode() -> None:
    metrics = SegmentationMetrics(K)
    with torch.inference_mode():
        metrics.update(*labels(0))
        metrics.reset()
    metrics.update(*labels(0))
    assert torch.equal(metrics.matrix, confusion_matrix(*labels(0), K))


def test_copies_pickles_and_stays_whole_under_half() -> None:
    metrics = SegmentationMetrics(K).half()
    metrics.update(*labels(0))
    for other in (copy.deepcopy(metrics), pickle.loads(pickle.dumps(metrics))):
        assert other.matrix.dtype == torch.int64
        assert torch.equal(other.compute()["miou"], mean_iou(confusion_matrix(*labels(0), K)))


def test_deterministic_mode() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        metrics = SegmentationMetrics(K)
        metrics.update(*labels(0))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(metrics.matrix, confusion_matrix(*labels(0), K))


def count_on_a_rank(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        metrics = SegmentationMetrics(K)
        metrics.matrix = metrics.matrix + (2**54 + 1) * rank  # a sum over floats would lose the 1
        for seed in range(1 + 2 * rank):  # ranks may see different numbers of batches
            metrics.update(*labels(10 * rank + seed))
        torch.save(metrics.compute(), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_sum_exactly(tmp_path: Path) -> None:
    other = CONTEXT.Process(target=count_on_a_rank, args=(1, str(tmp_path)))
    other.start()
    count_on_a_rank(0, str(tmp_path))
    other.join()
    assert other.exitcode == 0
    expected = sum(confusion_matrix(*labels(seed), K) for seed in (0, 10, 11, 12)) + (2**54 + 1)
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(result["matrix"], expected)
        assert torch.equal(result["miou"], mean_iou(expected))
        assert result["images"] == 2 * 4
