from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from hrseg.cli.arguments import experiment_of, names_a_task, value_of, with_stdin_read
from hrseg.cli.data_options import parse_data


def test_of_an_option_given_twice_the_last_counts_as_it_does_once_parsed() -> None:
    assert value_of("--ckpt_path", ["--ckpt_path", "a.ckpt", "--ckpt_path=b.ckpt"]) == "b.ckpt"
    assert value_of("--ckpt_path", ["--config", "a.yaml"]) is None


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--config", "a/toy.yaml", "--config=b.yaml"], "toy"),
        (["-c", "-"], "stdin"),
        (["--config={model: {network: net}}"], "default"),
        (["--data", "hrseg.CamVidDataModule"], "default"),
    ],
)
def test_a_run_has_the_name_of_its_first_config(arguments: list[str], name: str) -> None:
    assert experiment_of(arguments) == name


@pytest.mark.parametrize("given", [["--config", "-"], ["--config=-"], ["-c", "-"], ["-c=-"]])
def test_what_stdin_holds_is_read_once_for_all_that_look_at_it(
    given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task's class was not seen in it."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("model: {class_path: own.Task}"))
    arguments = with_stdin_read(["--run_dir", "-", *given])
    assert arguments[:2] == ["--run_dir", "-"]
    assert names_a_task(arguments)
    assert value_of(given[0].split("=")[0], arguments) == '{"model": {"class_path": "own.Task"}}'


@pytest.mark.parametrize("name", ["1e-3", "\N{CAMERA} photos", "caf\u00e9: 'x'"])
def test_the_data_of_a_run_are_found_whatever_their_folder_is_called(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    data = {"class_path": "hrseg.CamVidDataModule", "init_args": {"root": name, "batch_size": 2, "crop_size": [32, 32]}}
    path.write_text(json.dumps({"data": data}, ensure_ascii=False), encoding="utf-8")
    assert str(parse_data(["--config", str(path)]).root) == name
