"""Rows of `hrseg benchmark`: a table for people, and a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from hrseg.cli import one_line
from hrseg.errors import ConfigError
from hrseg.utils.files import require_file_or_nothing, writing

Row = Mapping[str, object]


def show_rows(
    rows: Sequence[Row], shared: Mapping[str, str], headings: Mapping[str, str], setting: Callable[[Row], str]
) -> None:
    """Prints facts shared by all rows, a table of the others, and failures.

    Args:
        rows: The rows; those with a "failure" have no measurement.
        shared: Formats of facts that are printed above the table if all rows share them.
        headings: Headings of the columns, of which empty ones are left out.
        setting: What a row measures, for its failure.
    """
    console = Console(highlight=False)
    if measured := [row for row in rows if not row.get("failure")]:
        alike = [name for name in shared if len({row.get(name) for row in measured}) == 1 and measured[0].get(name)]
        if alike:
            console.print(Text(", ".join(shared[name].format(_cell(measured[0][name])) for name in alike)))
        filled = {name for row in measured for name, value in row.items() if value not in (None, "")}
        shown = [name for name in headings if name in filled and name not in alike]
        columns = [Column(headings[name], justify="right") for name in shown]
        table = Table(*columns, box=SIMPLE, padding=(0, 0, 0, 1))
        for row in measured:
            table.add_row(*(_cell(row.get(name, "")) for name in shown))
        console.print(table)
    for row in rows:
        if row.get("failure"):
            console.print(Text(f"{setting(row)}: {one_line(str(row['failure']))}"))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 999.5 else f"{value:#.4g}"
    return one_line(str(value))


def require_rows_or_nothing(path: Path, columns: Sequence[str]) -> None:
    """Checks a path to append rows to.

    Raises:
        ConfigError: There is something else than a CSV file with these columns.
    """
    require_file_or_nothing(path)
    if path.exists() and path.read_bytes().splitlines()[:1] != [",".join(columns).encode()]:
        raise ConfigError(f"{path} is not a CSV file of `hrseg benchmark`; give --output another name")


def append_row(path: Path, columns: Sequence[str], row: Row) -> None:
    """Appends a row to a CSV file, which is made if there is none.

    Raises:
        OutputError: It cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
