"""Our scores against the official evaluator, cityscapesscripts, run here and as recorded beside genuine images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as evaluator  # noqa: N813
from cityscapesscripts.helpers.labels import category2labels, labels

from hrseg import CityscapesDataModule
from hrseg.errors import DataFileError
from hrseg.metrics import SegmentationMetrics

CLASSES = sorted((label for label in labels if not label.ignoreInEval), key=lambda label: label.trainId)
CATEGORIES = {
    name: tuple(label.trainId for label in members if not label.ignoreInEval)
    for name, members in category2labels.items()
    if name != "void"
}
evaluate_files = CityscapesDataModule("", batch_size=1, crop_size=(64, 64)).evaluate_files
TO_TRAIN_ID = torch.full((256,), 255, dtype=torch.uint8)
for _label in CLASSES:
    TO_TRAIN_ID[_label.id] = _label.trainId


def scores_of(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Our scores of pairs of label-id images, (prediction, ground truth)."""
    metrics = SegmentationMetrics(len(CLASSES), categories=CATEGORIES)
    for prediction, truth in pairs:
        preds, target = (TO_TRAIN_ID[torch.from_numpy(image).long()] for image in (prediction, truth))
        metrics.update(preds.unsqueeze(0), target.unsqueeze(0))
    return metrics.compute()


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, Any]) -> None:
    def numbers(values: list[float | None]) -> Any:
        return pytest.approx([math.nan if v is None else v for v in values], abs=1e-12, rel=0, nan_ok=True)

    assert ours["iou"].tolist() == numbers([theirs["class_iou"][label.name] for label in CLASSES])
    assert ours["category_iou"].tolist() == numbers([theirs["category_iou"][name] for name in CATEGORIES])
    assert [ours["miou"].item()] == numbers([theirs["mean_iou"]])
    assert [ours["category_miou"].item()] == numbers([theirs["mean_category_iou"]])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("absent", [(), (31,), (26, 27, 28, 31, 32, 33)], ids=["all", "no train", "no vehicles"])
def test_equals_the_evaluator_on_generated_labels(seed: int, absent: tuple[int, ...]) -> None:
    generator = np.random.default_rng(seed)
    ids = [label.id for label in labels if label.id >= 0 and label.id not in absent]
    pairs = [tuple(generator.choice(ids, (2, 40, 50)).astype(np.uint8)) for _ in range(2)]

    args = SimpleNamespace()
    matrix = evaluator.generateMatrix(args)
    for prediction, truth in pairs:
        np.add.at(matrix, (truth, prediction), 1)
    class_iou = {evaluator.id2label[i].name: evaluator.getIouScoreForLabel(i, matrix, args) for i in args.evalLabels}
    category_scores = {name: evaluator.getIouScoreForCategory(name, matrix, args) for name in category2labels}
    theirs = {
        "class_iou": class_iou,
        "category_iou": category_scores,
        "mean_iou": evaluator.getScoreAverage(class_iou, args),
        "mean_category_iou": evaluator.getScoreAverage(category_scores, args),
    }
    assert_equal(scores_of(pairs), theirs)


def files_of(shared_data: Path, network: str, name: str) -> tuple[Path, Path]:
    """Prediction and ground truth of a genuine image."""
    split = "train" if name.startswith("aachen") else "val"
    prediction = shared_data / "cityscapes_oracle/predictions" / network / split / f"{name}_pred_labelIds.png"
    truth = shared_data / "cityscapes/gtFine" / split / name.split("_")[0] / f"{name}_gtFine_labelIds.png"
    return prediction, truth


@pytest.mark.parametrize("network", ["espnet_q8", "espnetv2_s_2.0_1024x512"])
def test_equals_the_evaluator_on_genuine_images(shared_data: Path, network: str) -> None:
    recorded = json.loads((shared_data / "cityscapes_oracle" / f"{network}.json").read_text())
    names = {name for subset in ("val", "with_instances") for name in recorded[subset]["images"]}
    pairs = {}
    for name in sorted(names):
        files = files_of(shared_data, network, name)
        pairs[name] = tuple(cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in files)
    for subset in ("val", "with_instances"):
        assert_equal(scores_of([pairs[name] for name in recorded[subset]["images"]]), recorded[subset])


@pytest.mark.parametrize("subset", ["val", "with_instances"])
def test_the_evaluator_run_on_genuine_files_gives_what_was_recorded(shared_data: Path, subset: str) -> None:
    recorded = json.loads((shared_data / "cityscapes_oracle" / "espnet_q8.json").read_text())[subset]
    scores = evaluate_files([files_of(shared_data, "espnet_q8", name) for name in recorded["images"]])

    def of(kind: str, names: Iterable[str]) -> dict[str, float]:
        return {name: math.nan if recorded[kind][name] is None else recorded[kind][name] for name in names}

    assert scores["miou"] == pytest.approx(recorded["mean_iou"], abs=1e-12)
    assert scores["category_miou"] == pytest.approx(recorded["mean_category_iou"], abs=1e-12)
    assert list(scores["classes"]) == [label.name for label in CLASSES]
    np.testing.assert_equal(scores["classes"], of("class_iou", scores["classes"]))
    np.testing.assert_equal(scores["categories"], of("category_iou", CATEGORIES))
    assert ("iiou" in scores) == (subset == "with_instances")  # not all of val have instances
    if subset == "with_instances":
        assert scores["iiou"] == pytest.approx(recorded["mean_iiou"], abs=1e-12)
        assert scores["category_iiou"] == pytest.approx(recorded["mean_category_iiou"], abs=1e-12)
        np.testing.assert_equal(scores["class_iious"], of("class_iiou", scores["class_iious"]))


def test_files_that_the_evaluator_refuses_are_told(tmp_path: Path) -> None:
    for name, shape in (("prediction", (8, 8)), ("truth", (8, 9))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full(shape, 7, np.uint8))
    with pytest.raises(DataFileError, match="cityscapesscripts cannot evaluate the 1 predictions in"):
        evaluate_files([(tmp_path / "prediction.png", tmp_path / "truth.png")])
