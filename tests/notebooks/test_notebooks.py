"""The notebooks: each runs, any cell can be run again, and what is committed of them is small and clean."""

from __future__ import annotations

import ast
import importlib
import json
import re
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

from tests.notebooks.running import NOTEBOOKS, executed

BYTES = 300_000  # of a notebook with its outputs
SECONDS = 120  # from top to bottom
QUICK = {"NUM_TRAIN": 48, "NUM_EVAL": 4, "EPOCHS": 2}  # more steps than the warm-up has
PACKAGES = ("callbacks", "data", "inference", "losses", "metrics", "visualize")
PUBLIC = ("hrseg", *(f"hrseg.{name}" for name in PACKAGES))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def assert_clean(notebook: Any) -> None:
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        assert "Warning" not in json.dumps(output), output


def test_there_are_four() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@each_notebook
def test_every_cell_can_be_run_again(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    notebook = executed(read(path), tmp_path, QUICK, times=2)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    # drawing the scenes may take long enough to tell how far it is
    for cell in code_cells(notebook):
        cell.outputs = [o for o in cell.outputs if not o.get("text", "").startswith("drawing street scenes")]
    assert_clean(notebook)


@pytest.mark.slow
@each_notebook
def test_it_runs_in_two_minutes_as_it_is(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    start = time.perf_counter()
    notebook = executed(read(path), tmp_path)
    assert time.perf_counter() - start < SECONDS
    assert len(json.dumps(notebook)) < BYTES
    shown, saved = ([sorted(output.get("data", ())) for output in outputs(nb)] for nb in (notebook, read(path)))
    assert shown == saved  # what is committed is what this code gives


@each_notebook
def test_committed_outputs_are_complete_and_clean(path: Path) -> None:
    notebook = read(path)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert any("image/jpeg" in output.get("data", ()) for output in outputs(notebook))
    assert_clean(notebook)
    content = path.read_text()
    assert len(content) < BYTES
    assert not re.search(r"/(tmp|home|work|root|Users)/|site-packages", content)
    assert "widget" not in content
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}


@each_notebook
def test_only_the_public_interface_is_used(path: Path) -> None:
    for cell in code_cells(read(path)):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_"), cell.source
            if isinstance(node, ast.Import):
                assert all(n.name == "hrseg" for n in node.names if n.name.startswith("hrseg")), cell.source
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hrseg"):
                assert node.module in PUBLIC, cell.source
                offered = importlib.import_module(node.module)
                assert {n.name for n in node.names} <= set(public_names(offered)), cell.source


def public_names(module: ModuleType) -> list[str]:
    """What a package lists in `__all__`; of a module with functions alone, those that do not begin with "_"."""
    return getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])


@each_notebook
def test_links_between_notebooks_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for name in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / name).is_file(), name
