from __future__ import annotations

import csv
from pathlib import Path

from hrseg.callbacks import MetricsCsv


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_is_kept_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.csv"
    first = MetricsCsv(path)
    first.log_metrics({"train/loss": 1.5, "epoch": 0}, step=10)
    first.log_metrics({"val/miou": 0.25, "epoch": 0}, step=10)
    second = MetricsCsv(path)
    second.log_metrics({"train/loss": 1.25, "epoch": 1}, step=20)
    assert [row["step"] for row in rows(path)] == ["10", "10", "20"]
    assert [row["train/loss"] for row in rows(path)] == ["1.5", "", "1.25"]
    assert [row["val/miou"] for row in rows(path)] == ["", "0.25", ""]


def test_a_row_that_a_full_disk_cut_short_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsCsv(path)
    first.log_metrics({"train/loss": 1.5}, step=11)
    first.log_metrics({"train/loss": 1.25}, step=12)
    path.write_bytes(path.read_bytes()[: -len("2,1.25\r\n")])  # "1" of "12", which looks like an early step
    MetricsCsv(path, step=12).log_metrics({"train/loss": 1.25}, step=12)
    assert [row["step"] for row in rows(path)] == ["11", "12"]


def test_a_new_metric_gets_a_column(tmp_path: Path) -> None:
    logger = MetricsCsv(tmp_path / "metrics.csv")
    logger.log_metrics({"a": 1.0}, step=1)
    logger.log_metrics({"b": 2.0}, step=2)
    assert rows(tmp_path / "metrics.csv") == [{"step": "1", "a": "1.0", "b": ""}, {"step": "2", "a": "", "b": "2.0"}]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_values_of_one_metric_are_read_back(tmp_path: Path) -> None:
    logger = MetricsCsv(tmp_path / "metrics.csv")
    assert logger.values("a") == []
    logger.log_metrics({"a": 0.5}, step=1)
    logger.log_metrics({"b": 2.0}, step=2)
    logger.log_metrics({"a": 0.25, "b": 3.0}, step=4)
    assert logger.values("a") == [(1, 0.5), (4, 0.25)]
    assert logger.values("b") == [(2, 2.0), (4, 3.0)]
    assert logger.values("c") == []
