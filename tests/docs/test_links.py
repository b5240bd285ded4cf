"""Links in README and between the pages lead somewhere; tests that the pages name exist; README stays short."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT

_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub and MyST link to them, and its explicit targets."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = page.parent / path if path else page
        if path.startswith("notebooks/") and page.parent == ROOT / "docs":
            target = ROOT / path  # where the build copies them from
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}; headings: {sorted(anchors(target))}"


def test_tests_that_are_named_exist() -> None:
    """By file name and function, whichever folder the file is in."""
    named = set(re.findall(r"`(test_\w+\.py)::(\w+)`", (ROOT / "docs/evaluation/fidelity.md").read_text()))
    assert len(named) > 40
    functions = {
        (path.name, node.name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert named <= functions, sorted(named - functions)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_source_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`(hrseg/[\w/.]+|tests/[\w/.]+)`", page.read_text()):
        assert (ROOT / name).exists() or "foo" in name, f"{page}: {name}"


def test_every_public_package_has_a_page_in_the_reference() -> None:
    packages = {"hrseg", "visualize", "errors"}
    for path in (ROOT / "hrseg").glob("*/__init__.py"):
        package = importlib.import_module(f"hrseg.{path.parent.name}")
        if getattr(package, "__all__", ()) and path.parent.name not in ("task", "cli"):  # the task is a name of hrseg
            packages.add(path.parent.name)
    pages = {path.stem for path in (ROOT / "docs/reference").glob("*.rst")}
    assert pages == packages
    listed = (ROOT / "docs/reference/index.md").read_text().split("```{toctree}")[1].split()
    assert packages <= set(listed)


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert "MIT" in "\n".join(lines[:5])
