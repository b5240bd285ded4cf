from __future__ import annotations

import pytest

from hrseg.cli import main
from hrseg.cli.models import weights_of
from hrseg.models.catalog import MODELS, list_families, list_models
from hrseg.models.weights.published import FURTHER_RESULTS, ZOO
from hrseg.models.weights.zoo import NAMED_WEIGHTS

FAMILIES = list(list_families(MODELS.values()))


def test_further_results_are_of_networks_that_there_are() -> None:
    assert all(name in MODELS for name, _, _ in FURTHER_RESULTS)


def test_families_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 120
    assert [line.split()[0] for line in lines[1 : 1 + len(FAMILIES)]] == FAMILIES
    assert lines[1].split(maxsplit=5) == ["hrnetv2_SIZE", "1.54-116.64", "M", "33.4-1285.2", "G", "HRNetV2"]
    assert "\nSIZE of hrnetv2, hrnetv2p, hrnetv1: w18_small_v1, w18_small_v2, w18, w30," in text
    assert "\nSIZE of hrformer: t, s, b\n" in text
    assert f"'*' all {len(MODELS)}." in text


def test_networks_by_a_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "hrnetv2_w48*ocr"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "networks                 parameters  multiply-adds  weights",
        "HRNetV2 + OCR, object-contextual representations: arXiv 1909.11065",
        f"  hrnetv2_w48_ocr           70.37 M       1295.3 G  {few('hrnetv2_w48_ocr')}",
        "HRNetV2 + OCR, PSA in parallel: arXiv 2107.00782",
        f"  hrnetv2_w48_psa_p_ocr     76.73 M       1295.7 G  {few('hrnetv2_w48_psa_p_ocr')}",
        "HRNetV2 + OCR, PSA in sequence: arXiv 2107.00782",
        f"  hrnetv2_w48_psa_s_ocr     75.76 M       1311.4 G  {few('hrnetv2_w48_psa_s_ocr')}",
        "",
        "Sizes with 19 classes (classifiers: 1000) and one image of 1024x2048.",
        "`hrseg weights list` shows more on the weights; `create_model(..., weights=)` takes these names.",
    ]
    assert few("hrnetv2_w48_ocr").startswith("imagenet, cityscapes, lip (+")


def few(name: str) -> str:
    first, others = weights_of(name)[:3], weights_of(name)[3:]
    return ", ".join(first) + (f" (+{len(others)})" if others else "")


def test_all_networks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list_models()
    assert max(map(len, lines)) <= 120


def test_one_network_is_listed_with_all_its_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "hrnetv2_w48"]) == 0
    text = capsys.readouterr().out
    assert "65.86 M" in text
    assert "747.5 G" in text
    _, _, *rows, _, _, _ = text.splitlines()
    tags = [row.split()[-1] for row in rows]
    assert tags == weights_of("hrnetv2_w48")
    assert tags[:6] == ["imagenet", "cityscapes", "lip", "pascal_context_59", "coco_stuff", "ade20k"]


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_that_create_model_takes_and_reads(name: str) -> None:
    tags = weights_of(name)
    assert len(set(tags)) == len(tags)
    known = {tag for tag, fitting in NAMED_WEIGHTS.items() if name in fitting}
    unread = {tag for tag in known if ZOO[NAMED_WEIGHTS[tag][name]].files == ("model.pdparams",)}
    assert set(tags) == known - unread


@pytest.mark.parametrize("arguments", [["resnet"], ["hrnetv2_w49*"]])
def test_unknown_names(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *arguments]) == 2
    assert f"unknown model '{arguments[0]}'" in capsys.readouterr().err
