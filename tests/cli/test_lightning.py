"""A user's subclass of `SegmentationTask` by its class path; the seed."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hrseg.cli import main

MODULE = '''
from hrseg import SegmentationTask


class Scaled(SegmentationTask):
    """Scales its loss.

    Args:
        scale: Of the loss.
    """

    def __init__(self, *args, scale: float = 2.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.scale = scale

    def training_step(self, batch, batch_idx):
        return self.scale * super().training_step(batch, batch_idx)


class Other:
    pass
'''


@pytest.fixture(autouse=True)
def own_module(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_task.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "own_task", raising=False)


def with_class(recipe: Path) -> str:
    """The recipe with the class in it, as in a config.yaml."""
    content = yaml.safe_load(recipe.read_text())
    content["model"] = {"class_path": "own_task.Scaled", "init_args": {**content["model"], "scale": 4.0}}
    Path("named.yaml").write_text(yaml.safe_dump(content))
    return "named.yaml"


def losses(run: str) -> list[str]:
    rows = csv.DictReader(Path(run, "metrics.csv").read_text().splitlines())
    return [row["val/loss"] for row in rows if row["val/loss"]]


def test_a_custom_task_by_option_or_recipe_and_every_verb_on_its_run(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(recipe), "--model", "own_task.Scaled", "--model.scale=4", "--run_dir=a"]) == 0
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    assert config["model"]["class_path"] == "own_task.Scaled"
    assert config["model"]["init_args"]["scale"] == 4.0
    assert config["model"]["init_args"]["network"] == "hrnetv2_w18_small_v1"
    assert main(["fit", "--config", with_class(recipe), "--run_dir=b"]) == 0
    assert main(["fit", "--config", "a/config.yaml", "--run_dir=c"]) == 0
    assert main(["fit", "--model=own_task.Scaled", "--config", str(recipe), "--model.scale=1", "--run_dir=d"]) == 0
    assert losses("a") == losses("b") == losses("c") != losses("d")
    assert main(["fit", "--config", str(recipe), "--run_dir=plain"]) == 0
    assert losses("plain") == losses("d")
    assert "class_path" not in yaml.safe_load(Path("plain/config.yaml").read_text())["model"]
    for verb in ("validate", "test", "predict"):
        assert main([verb, "--ckpt_path", "a/checkpoints/best.ckpt", "--trust"]) == 0
    assert main(["predict", "--ckpt_path", "a/checkpoints/best.ckpt", "--images", "camvid/val/0000.png"]) == 0
    assert main(["verify", "--config", "a/config.yaml"]) == 0
    assert main(["fit", "--config", with_class(recipe), "--run_dir=a", "--trainer.max_epochs=2"]) == 0  # resumes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_task.Nothing", "model: .*no attribute 'Nothing'"),
        ("own_task.Other", "model: .*subclass of SegmentationTask"),
        ("no_such_module.Task", "model: .*No module named 'no_such_module'"),
        ("", "model: "),
    ],
)
def test_a_class_that_is_no_task(recipe: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(recipe), "--model", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line


def test_weights_of_a_custom_task_by_name_are_looked_at(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--model.weights", "--model.init_args.weights"):
        assert main(["validate", "--config", with_class(recipe), option, "nothing"]) == 2
        assert "unknown weights 'nothing'" in capsys.readouterr().err


def test_missing_data_are_reported_before_weights(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", f"--config={recipe}", "--data.root=absent", "--model.weights=absent.pth"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hrseg: no folder {Path('absent').absolute()}; expected")


def seeds(run: Path) -> list[Any]:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    config = yaml.safe_load((run / "config.yaml").read_text())
    return [
        checkpoint["hrseg"]["seed"],
        checkpoint["CamVidDataModule"]["seed"],
        config["seed_everything"],
        config["data"]["init_args"]["seed"],
    ]


def test_seed_everything_is_that_of_the_data_too_and_a_restart_keeps_it(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit = ["fit", f"--config={recipe}", f"--run_dir={run}"]
    assert main([*fit, "--seed_everything=1", "--trainer.max_epochs=1"]) == 0
    assert seeds(run) == [1, 1, 1, None]
    assert main([*fit, "--seed_everything=2", "--trainer.max_epochs=2"]) == 0
    assert "seed_everything 1 -> 2 (without effect: the seed comes from the checkpoint)" in capsys.readouterr().out
    assert seeds(run) == [1, 1, 1, None]
