from __future__ import annotations

import csv
from pathlib import Path

import pytest

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


GOOD = b"step,train/loss,epoch\r\n9,1.5,0\r\n19,nan,1\r\n"


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (GOOD + b"\x80\xff\xfe,1,2\r\n", 2),
        (GOOD + b"\x00\x00\x00\x00\r\n", 2),
        (GOOD.replace(b"1.5", b"1\x005"), 1),
        (GOOD.replace(b"step", b"stop"), 0),
        (GOOD.replace(b",epoch", b""), 0),
        (GOOD.replace(b"9,1.5", b'9,"1.5'), 1),
        (GOOD + GOOD, 4),
        (GOOD.replace(b"19,", b"nineteen,"), 1),
        (GOOD.replace(b"19,", b"-19,"), 1),
        (GOOD + b"29,1,2,3,4\r\n", 2),
        (GOOD + b"29,1\r\n", 2),
        (GOOD + b"29,high,2\r\n", 2),
        (GOOD.replace(b"epoch", b"step"), 0),
        (GOOD.decode().encode("utf-16"), 0),
        (b"\x89PNG\r\n\x1a\n\x00\x00", 0),
        (b"\r\n\r\n", 0),
    ],
)
def test_a_damaged_file_is_put_aside_and_its_rows_are_taken_over(
    content: bytes, kept: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.csv"
    (tmp_path / "metrics.damaged1.csv").write_bytes(b"of an earlier restart")
    path.write_bytes(content)
    logger = MetricsCsv(path, step=29)
    (message,) = caplog.messages
    assert message.startswith(f"{path} is damaged in ")
    assert message.endswith(f"it was renamed to metrics.damaged2.csv, and the {kept} readable rows were kept")
    assert (tmp_path / "metrics.damaged2.csv").read_bytes() == content
    assert (tmp_path / "metrics.damaged1.csv").read_bytes() == b"of an earlier restart"
    logger.log_metrics({"train/loss": 0.5, "val/miou": 0.25}, step=29)
    assert len(rows(path)) == kept + 1
    assert logger.values("train/loss")[-1] == (29, 0.5)
    caplog.clear()
    MetricsCsv(path)
    assert not caplog.messages


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf" + GOOD, GOOD.replace(b"\r\n", b"\n"), GOOD[:-3], b"step,tr"])
def test_a_file_that_an_editor_or_a_full_disk_touched_is_resumed(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    logger = MetricsCsv(path, step=29)
    before = len(logger.values("train/loss"))
    logger.log_metrics({"train/loss": 0.5, "epoch": 2}, step=29)
    assert len(logger.values("train/loss")) == before + 1
    assert logger.values("train/loss")[-1] == (29, 0.5)
    assert before == (2 if content.endswith(b"\n") else 1 if content == GOOD[:-3] else 0)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]
    assert not caplog.messages


def test_names_with_commas_quotes_and_other_letters_are_columns(tmp_path: Path) -> None:
    name = 'val/iou "left, rechts", Straße'
    MetricsCsv(tmp_path / "metrics.csv").log_metrics({name: 0.5}, step=1)
    again = MetricsCsv(tmp_path / "metrics.csv")
    again.log_metrics({name: 0.25}, step=2)
    assert again.values(name) == [(1, 0.5), (2, 0.25)]
