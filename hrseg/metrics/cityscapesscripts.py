"""Scores of label files by the evaluator of cityscapesscripts."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrseg.errors import DataFileError


def evaluate_files(pairs: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
    """Runs the official evaluator of Cityscapes on label files.

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

    with_instances = all(_instances(truth).is_file() for _, truth in pairs)
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


def _instances(truth: Path) -> Path:
    return truth.with_name(truth.name.replace("labelIds", "instanceIds"))
