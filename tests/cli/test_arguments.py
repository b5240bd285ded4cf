from __future__ import annotations

import io
import sys

import pytest

from hrseg.cli.arguments import experiment_of, names_a_task, value_of, with_stdin_read


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
    """A task class in standard input used to be missed."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("model: {class_path: own.Task}"))
    arguments = with_stdin_read(["--run_dir", "-", *given])
    assert arguments[:2] == ["--run_dir", "-"]
    assert names_a_task(arguments)
    assert value_of(given[0].split("=")[0], arguments) == '{"model": {"class_path": "own.Task"}}'
