"""Rows as a table and as a CSV file with their provenance."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from experiments.benchmarks.interleaved import Row
from hrseg.errors import ConfigError
from hrseg.utils.environment import describe_environment
from hrseg.utils.files import replacing

_PACKAGES = ("hrseg", "torch", "torchmetrics", "opencv-python-headless", "timm", "segmentation-models-pytorch")


def describe_run(command: str) -> dict[str, str]:
    """Provenance of a measurement, by column of the CSV file.

    Args:
        command: The command line, without paths.
    """
    return describe_environment(_PACKAGES) | {"command": command}


def format_table(rows: Sequence[Row], ratio: str = "hrseg is x") -> str:
    """A table with a line for each row; `ratio` is the heading of the ratios."""
    lines = [("case", "side", "median", "", ratio, "target", "")]
    for row in rows:
        verdict = {None: "", True: "met", False: "MISSED"}[row.met]
        times = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append((row.case, row.side, f"{row.value:.3g}", row.unit, times, row.target, verdict))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def write_csv(path: Path, rows: Sequence[Row], circumstances: Mapping[str, str]) -> None:
    """Writes rows to a CSV file, in place of earlier ones of their subject.

    Args:
        path: The file.
        rows: The rows.
        circumstances: Further columns, the same for all rows.

    Raises:
        ConfigError: The file exists and has other columns.
    """
    columns = [*(field.name for field in fields(Row)), *circumstances]
    lines = [{**asdict(row), "value": f"{row.value:.4g}", **circumstances} for row in rows]
    for line in lines:
        line["ratio"] = "" if line["ratio"] is None else f"{line['ratio']:.3f}"
        line["met"] = {None: "", True: "yes", False: "no"}[line["met"]]
    kept = [line for line in _read_csv(path, columns) if line["subject"] not in {row.subject for row in rows}]
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *lines])


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.exists():
        return []
    other = ConfigError(f"{path} is not a CSV file of these benchmarks; give --output another name")
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != list(columns):
                raise other
            return list(reader)
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise other from error
