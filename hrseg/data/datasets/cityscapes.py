"""Cityscapes: urban street scenes of 2048x1024 pixels, 19 classes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hrseg.data.base import SegmentationDataModule
from hrseg.data.dataset import Sample
from hrseg.data.labels import LabelTable
from hrseg.errors import DataFileError

# name, colour, label id, and weight in the loss of the official recipes
_CLASSES = (
    ("road", (128, 64, 128), 7, 0.8373),
    ("sidewalk", (244, 35, 232), 8, 0.918),
    ("building", (70, 70, 70), 11, 0.866),
    ("wall", (102, 102, 156), 12, 1.0345),
    ("fence", (190, 153, 153), 13, 1.0166),
    ("pole", (153, 153, 153), 17, 0.9969),
    ("traffic light", (250, 170, 30), 19, 0.9754),
    ("traffic sign", (220, 220, 0), 20, 1.0489),
    ("vegetation", (107, 142, 35), 21, 0.8786),
    ("terrain", (152, 251, 152), 22, 1.0023),
    ("sky", (70, 130, 180), 23, 0.9539),
    ("person", (220, 20, 60), 24, 0.9843),
    ("rider", (255, 0, 0), 25, 1.1116),
    ("car", (0, 0, 142), 26, 0.9037),
    ("truck", (0, 0, 70), 27, 1.0865),
    ("bus", (0, 60, 100), 28, 1.0955),
    ("train", (0, 80, 100), 31, 1.0865),
    ("motorcycle", (0, 0, 230), 32, 1.1529),
    ("bicycle", (119, 11, 32), 33, 1.0507),
)

CITYSCAPES = LabelTable(
    name="Cityscapes",
    class_names=tuple(name for name, _, _, _ in _CLASSES),
    colors=tuple(color for _, color, _, _ in _CLASSES),
    label_ids=tuple(label_id for _, _, label_id, _ in _CLASSES),
    void_ids=(0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30),
    categories={
        "flat": (0, 1),
        "construction": (2, 3, 4),
        "object": (5, 6, 7),
        "nature": (8, 9),
        "sky": (10,),
        "human": (11, 12),
        "vehicle": (13, 14, 15, 16, 17, 18),
    },
    counts={"train": 2975, "val": 500, "trainval": 3475, "test": 1525, "train_extra": 19998},
)
"""The classes of Cityscapes. Label id -1 (licence plate) cannot occur in 8-bit files.

Source:
    cityscapesScripts, cityscapesscripts/helpers/labels.py; the counts from its README.
"""

CITYSCAPES_CLASS_WEIGHTS = tuple(weight for _, _, _, weight in _CLASSES)
"""Class weights of the official recipes, in train id order.

Source:
    HRNet-Semantic-Segmentation, lib/datasets/cityscapes.py.
"""


class CityscapesDataModule(SegmentationDataModule):
    """Cityscapes in its original layout; arguments as for `SegmentationDataModule`.

    Splits: train, val, trainval (both), train_extra with coarse labels, and test, whose labels are not public.
    Labels are the `labelIds` files or, where these are missing, the `labelTrainIds` files of cityscapesScripts.
    """

    labels = CITYSCAPES
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "trainval", "test", "train_extra")
    unlabelled_splits: ClassVar[tuple[str, ...]] = ("test",)
    layout: ClassVar[str] = (
        "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with gtFine/SPLIT/CITY/*_gtFine_labelIds.png "
        "(gtCoarse for train_extra)"
    )
    origin: ClassVar[str] = (
        "Register at https://www.cityscapes-dataset.com and extract leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip there"
    )
    evaluator: ClassVar[str | None] = "cityscapesscripts"

    def submission_name(self, name: str) -> str:
        """The server matches city, sequence and frame, in any folder."""
        return f"{name}_pred_labelIds.png"

    def evaluate_files(self, pairs: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
        """Runs the evaluator of cityscapesscripts on label files.

        Args:
            pairs: Prediction and ground truth of each image, 8-bit PNGs of label ids. Beside a ground truth
                `*_labelIds.png` may lie its `*_instanceIds.png`; where all have one, instances are scored too.

        Returns:
            "miou" and "category_miou", fractions, and with instances "iiou" and "category_iiou"; by name "classes" and
            "categories", and with instances "class_iious" and "category_iious". NaN: the class never occurs.

        Raises:
            DataFileError: The evaluator rejects a file; it prints the reason to the standard output.
        """
        from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as evaluator  # noqa: N813

        instance_files = [truth.with_name(truth.name.replace("labelIds", "instanceIds")) for _, truth in pairs]
        with_instances = all(path.is_file() for path in instance_files)
        settings = copy.copy(evaluator.args)
        settings.quiet, settings.JSONOutput, settings.evalInstLevelScore = True, False, with_instances
        predictions, truths = ([str(path) for path in paths] for paths in zip(*pairs, strict=True))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # np.in1d
                result = evaluator.evaluateImgLists(predictions, truths, settings)
        except SystemExit as stop:
            raise DataFileError(
                f"cityscapesscripts cannot evaluate the {len(pairs)} predictions in {pairs[0][0].parent}: {stop.code}; "
                "see what it printed"
            ) from stop
        void = {"void", *(label.name for label in evaluator.labels if label.ignoreInEval)}

        def numbers(scores: Mapping[str, float]) -> dict[str, float]:
            return {name: float(value) for name, value in scores.items() if name not in void}

        scores = {
            "miou": float(result["averageScoreClasses"]),
            "category_miou": float(result["averageScoreCategories"]),
            "classes": numbers(result["classScores"]),
            "categories": numbers(result["categoryScores"]),
        }
        if with_instances:
            scores["iiou"] = float(result["averageScoreInstClasses"])
            scores["category_iiou"] = float(result["averageScoreInstCategories"])
            scores["class_iious"] = numbers(result["classInstScores"])
            scores["category_iious"] = numbers(result["categoryInstScores"])
        return scores

    def check_counts(self, pixels_per_label_id: np.ndarray) -> list[str]:
        """Reports `labelIds` files that seem to hold train ids: no label id exceeds the greatest train id."""
        if pixels_per_label_id[self.num_classes :].any() or not pixels_per_label_id.any():
            return []
        return [
            f"no label id from {self.num_classes} to 33 occurs in the labels, as if they were train ids; expected "
            "*_labelIds.png as in the original release: extract gtFine_trainvaltest.zip again, or rename the files to "
            "*_labelTrainIds.png"
        ]

    def find_samples(self, split: str) -> list[Sample]:
        """Lists the images of a split city by city."""
        if split == "trainval":
            return self.find_samples("train") + self.find_samples("val")
        annotation = "gtCoarse" if split == "train_extra" else "gtFine"
        samples = []
        for image in sorted((self.root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
            name = image.name.removesuffix("_leftImg8bit.png")
            label = self.root / annotation / split / image.parent.name / f"{name}_{annotation}_labelIds.png"
            mapped = label.with_name(f"{name}_{annotation}_labelTrainIds.png")
            holds_train_ids = not label.is_file() and mapped.is_file()
            samples.append(Sample(name, image, mapped if holds_train_ids else label, holds_train_ids))
        return samples
