"""`metrics.csv`: every logged row of a run, across restarts."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from hrseg.utils.files import replacing, writing

_log = logging.getLogger(__name__)


class MetricsCsv(Logger):
    """Logger that appends one CSV row per logged step.

    Lightning's `CSVLogger` deletes the existing file when a run restarts in the same folder; this one appends to it. A
    metric that first appears later gets a new column, empty in earlier rows. A damaged file is kept under another name
    and its readable rows are carried over.

    Args:
        path: The file.
        step: The global step that the training resumes from. Rows of this step and later ones are removed from an
            existing file, because they will be logged again. None keeps all rows.
    """

    def __init__(self, path: Path, step: int | None = None) -> None:
        super().__init__()
        self._path = path
        self._columns: list[str] = []
        if path.is_file():
            self._go_on(step)

    @rank_zero_only
    def _go_on(self, step: int | None) -> None:
        found = _read(self._path)
        self._columns = found.columns
        kept = found.rows if step is None else [row for row in found.rows if int(row["step"]) < step]
        if found.damaged:
            aside = next(path for n in count(1) if not (path := self._path.with_suffix(f".damaged{n}.csv")).exists())
            with writing(aside):
                self._path.rename(aside)
            _log.warning(
                "%s is damaged in %d lines, from line %d on; it was renamed to %s, and the %d readable rows were kept",
                *(self._path, len(found.damaged), found.damaged[0], aside.name, len(found.rows)),
            )
        if self._columns and (found.damaged or found.is_cut or len(kept) < len(found.rows)):
            self._write(self._columns, kept)

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self._path.parent.name

    @property
    def version(self) -> str:
        """Always empty: a folder holds one run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self._path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing; the run's `config.yaml` holds the hyper-parameters."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends one row."""
        row = {"step": step, **metrics}
        added = [name for name in row if name not in self._columns]
        if added:
            self._write([*self._columns, *added], _read(self._path).rows if self._path.is_file() else [])
        with writing(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def values(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of each row that has the metric."""
        rows = _read(self._path).rows if self._path.is_file() else []
        return [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]

    def _write(self, columns: list[str], rows: Sequence[Mapping[str, str]]) -> None:
        with replacing(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns


class _Content(NamedTuple):
    columns: list[str]
    rows: list[dict[str, str]]
    damaged: list[int]  # 1-based numbers of unreadable lines
    is_cut: bool  # the last line is incomplete (a full disk); it is in neither list


def _read(path: Path) -> _Content:
    """Reads line by line, so that an error in one line, such as an open quote, does not affect the others."""
    # editors may add a byte-order mark; undecodable bytes become "\ufffd", which fails as a number below
    lines = path.read_bytes().decode("utf-8-sig", errors="replace").split("\n")
    is_cut = lines.pop() != ""
    columns = _fields(lines[0]) if lines else []
    if "step" not in columns or len(set(columns)) < len(columns):
        return _Content([], [], list(range(1, len(lines) + 1)), is_cut)
    rows, damaged = [], []
    for number, line in enumerate(lines[1:], start=2):
        fields = _fields(line)
        row = dict(zip(columns, fields, strict=False))
        if len(fields) == len(columns) and row["step"].isdecimal() and all(map(_is_number, fields)):
            rows.append(row)
        else:
            damaged.append(number)
    return _Content(columns, rows, damaged, is_cut)


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line.removesuffix("\r")], strict=True), [])
    except csv.Error:
        return []


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True
