"""Options of the verbs that are not Lightning's, with invalid values."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrseg.cli import main


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\xff")
    Path("folder").mkdir()


BENCHMARK = ["benchmark", "hrnetv2_w18_small_v1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BENCHMARK, "--output", "binary.csv"], "binary.csv is not a CSV file of `hrseg benchmark`; give --output"),
        ([*BENCHMARK, "--output", "folder"], "folder"),
        ([*BENCHMARK, "--output", "a/" * 1900], "more than 200 folders"),
        (["verify", "--config", "{a: [b}"], "the config {a: [b} ... is no YAML"),
        (["predict", "--images", "binary.csv", "--ckpt_path", "~nobody-of-that-name"], "hrseg: no "),
        (["submit", "~nobody-of-that-name"], "no ~nobody-of-that-name/config.yaml"),
    ],
)
def test_one_line_for_values_that_no_option_is_meant_for(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
