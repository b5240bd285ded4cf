"""`metrics.csv`: every logged row of a run, over all its restarts."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from hrseg.files import replacing, writing


class MetricsCsv(Logger):
    """Appends a row to a CSV file for every step that logs something.

    Lightning's CSVLogger removes the file of the run before when it is restarted in the same folder; this one reads
    the header and goes on. A metric that comes up later gets a new column, empty in the rows before.

    Args:
        path: The file.
        step: Where the training goes on. The rows of this step and of later ones are removed from a file that is there:
            the steps were undone by a kill, and will be logged again. None keeps all.
    """

    def __init__(self, path: Path, step: int | None = None) -> None:
        super().__init__()
        self._path = path
        self._columns: list[str] = []
        if path.is_file():
            self._go_on(step)

    @rank_zero_only
    def _go_on(self, step: int | None) -> None:
        with self._path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows, self._columns = list(reader), list(reader.fieldnames or ())
            is_whole = not rows or self._path.read_bytes().endswith(b"\n")
        kept = rows if is_whole else rows[:-1]  # a full disk may have cut the last row short
        if step is not None:
            kept = [row for row in kept if int(row["step"]) < step]
        if len(kept) < len(rows):
            self._write(self._columns, kept)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._path.parent.name

    @property
    def version(self) -> str:
        """Empty: the folder is one run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self._path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes one row."""
        row = {"step": step, **metrics}
        added = [name for name in row if name not in self._columns]
        if added:
            self._widen([*self._columns, *added])
        with writing(self._path), self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def values(self, name: str) -> list[tuple[int, float]]:
        """Step and value of each row that holds a metric."""
        if not self._path.is_file():
            return []
        with self._path.open(newline="") as file:
            return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]

    def _widen(self, columns: list[str]) -> None:
        rows: list[dict[str, str]] = []
        if self._path.is_file():
            with self._path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        self._write(columns, rows)

    def _write(self, columns: list[str], rows: Sequence[Mapping[str, str]]) -> None:
        with replacing(self._path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns
