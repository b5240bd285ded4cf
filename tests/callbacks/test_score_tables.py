from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from hrseg.callbacks.score_tables import score_table, write_scores
from hrseg.data.labels import LabelTable
from hrseg.metrics import SegmentationMetrics

TABLE = LabelTable("toy", ("sky", "road", "train"), ((0, 0, 0),) * 3, categories={"outside": (0, 1), "vehicle": (2,)})


@pytest.fixture
def metrics() -> SegmentationMetrics:
    metrics = SegmentationMetrics(3, categories=TABLE.categories)
    metrics.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 255]]))
    return metrics


def test_files_hold_every_class(metrics: SegmentationMetrics, tmp_path: Path) -> None:
    write_scores(tmp_path / "val", metrics.compute(), TABLE)
    with (tmp_path / "val" / "iou.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["sky", "road", "train"]
    assert [row["iou"] for row in rows] == ["0.5", "0.5", ""]
    assert [row["pixels"] for row in rows] == ["1", "2", "0"]
    scores = json.loads((tmp_path / "val" / "scores.json").read_text())
    assert scores["miou"] == 0.5
    assert scores["classes"] == {"sky": 0.5, "road": 0.5, "train": None}
    assert scores["categories"] == {"outside": 1.0, "vehicle": None}


def test_the_table_shows_percent_and_a_dash_for_an_absent_class(metrics: SegmentationMetrics) -> None:
    text = io.StringIO()
    Console(file=text, width=100).print(score_table(metrics.compute(), TABLE, "toy val"))
    lines = [line.replace("│", "").split() for line in text.getvalue().splitlines()]
    assert ["sky", "50.00"] in lines
    assert ["train", "-"] in lines
    assert ["mIoU", "50.00"] in lines
    assert ["mean", "of", "categories", "100.00"] in lines
