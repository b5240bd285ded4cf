"""The generated tables of the model zoo's page."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from hrseg.models.catalog import MODELS, list_families
from hrseg.models.weights.published import FURTHER_RESULTS, ZOO

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DOCS / "_ext")
    return import_module("zoo_tables")


def test_families(tables: ModuleType) -> None:
    heading, rows = tables.families()
    assert heading[:3] == ("networks", "what they are", "paper")
    assert [row[0].strip("`") for row in rows] == list(list_families(MODELS.values()))
    assert {len(row) for row in rows} == {len(heading)}


def test_both_stand_on_the_page() -> None:
    page = (DOCS / "models" / "zoo.md").read_text()
    for name in ("families", "results"):
        assert f"```{{networks}} {name}\n```" in page


def test_published_results(tables: ModuleType) -> None:
    heading, lines = tables.results()
    rows = {row[0].strip("`"): dict(zip(heading, row, strict=True)) for row in lines}
    assert rows["hrnetv2_w18_small_v1"]["Cityscapes"] == "70.3"
    assert rows["hrnetv2_w18_small_v2"]["Cityscapes"] == "76.2"
    assert rows["hrnetv2_w18"]["Cityscapes"] == "78.97 (PaddleSeg)"
    assert rows["hrnetv2_w48"]["Cityscapes"] == "80.9"
    assert rows["hrnetv2_w48"]["PASCAL-Context"] == "54.1 (59 classes, seven scales and flip)"
    assert rows["hrnetv2_w48_ocr"]["LIP"] == "56.48 (flip)"
    assert rows["hrnetv2_w48_ocr"]["ADE20K"] == "44.5"
    assert rows["hrnetv2_w48_ocr_hmsa"]["Cityscapes"].startswith("86.92 (scales 0.5, 1 and 2; NVIDIA; trained on Map")
    assert rows["hrformer_b_ocr"]["COCO-Stuff"] == "41.6"
    published = {f"{checkpoint.result}" for checkpoint in ZOO.values()} | {f"{row[2]}" for row in FURTHER_RESULTS}
    for row in rows.values():
        numbers = [re.match(r"[\d.]+", row[data_set]) for data_set in heading[3:8]]
        assert {match[0] for match in numbers if match} <= published
