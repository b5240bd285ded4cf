"""Runs of strangers: scoring and using them executes nothing that config.yaml or checkpoint names."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hrseg import Predictor, SegmentationTask
from hrseg.cli import main
from hrseg.errors import ConfigError
from hrseg.utils.images import write_image
from tests.cli.conftest import RECIPE
from tests.data.datasets.test_camvid import write_camvid

# a module of the stranger's that leaves a mark when it is imported, and when anything in it is called
MODULE = """
from pathlib import Path

from pytorch_lightning import Callback
from torch import nn

Path(__file__).with_name("imported").touch()


def call(*arguments, **named):
    Path(__file__).with_name("called").touch()


class Net(nn.Conv2d):
    def __init__(self):
        call()
        super().__init__(3, 11, 1)


class Watcher(Callback):
    def __init__(self):
        call()
"""
DATA_MODULE = """
from hrseg.data.datasets.camvid import CamVidDataModule


class Data(CamVidDataModule):
    def __init__(self, root, **kwargs):
        super().__init__(root, **kwargs)
"""
EVIL = {"class_path": "stranger.Net"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound run of one step, with its data."""
    place = tmp_path_factory.mktemp("stranger")
    write_camvid(place / "camvid")
    (place / "toy.yaml").write_text(RECIPE.format(root=place / "camvid"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("LOCAL_RANK", raising=False)
        assert main(["fit", "--config=toy.yaml", "--run_dir=run", "--trainer.limit_train_batches=1"]) == 0
    return place / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the run; any call of the stranger's module is noticed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("stranger.py").write_text(MODULE)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/best.ckpt"):
        (run / name).symlink_to(trained / name)
    yield run
    sys.modules.pop("stranger", None)


def change(run: Path, key: str, value: Any) -> None:
    """Gives the run a config.yaml with another value."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    place = config
    *names, last = key.split(".")
    for name in names:
        place = place[name]
    place[last] = copy.deepcopy(value)
    (run / "config.yaml").unlink()
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def assert_nothing_ran() -> None:
    assert not Path("imported").exists()
    assert not Path("called").exists()
    assert "stranger" not in sys.modules


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.network", EVIL),
        ("model.network", {"class_path": "torch.nn.Sequential", "init_args": {"args": [EVIL]}}),
        ("model.network", {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": ".", "model": "x"}}),
        ("model.network", {"class_path": "torch.utils.cpp_extension.load", "init_args": {"name": "x"}}),
        ("model.network_args", {"init": EVIL}),
        ("model.loss", EVIL),
        ("model.loss", "stranger.call"),
        ("model.loss", "{class_path: stranger.Net}"),
        ("model.optimizer", {"class_path": "stranger.call"}),
        ("model.optimizer", "stranger.call"),
        ("model.optimizer", "os.system"),
        ("model.schedule", "stranger.call"),
        ("model.val_protocol", EVIL),
        ("model", {"class_path": "stranger.Net"}),
        ("data.class_path", "stranger.Net"),
        ("data", "stranger.call"),
        ("data.init_args.transforms", [EVIL]),
        ("data.init_args.transforms", ["stranger.call"]),
        (
            "data.init_args.transforms",
            [{"class_path": "albumentations.Lambda", "init_args": {"image": "stranger.call"}}],
        ),
        ("data.init_args.transforms", "other.yaml"),
        *[
            (key, name)
            for key in ("model", "model.network", "model.loss", "model.schedule", "model.val_protocol", "data")
            for name in ("notes", "run/notes", "pipe", "-")
        ],
        ("data.init_args.transforms", ["notes"]),
        ("model.loss", {"class_path": "hrseg.losses.ModuleLoss", "init_args": {"module": "run/notes"}}),
        ("model.loss", {"class_path": "hrseg.losses.ModuleLoss", "__path__": "run"}),
        ("data.init_args.root", {"class_path": "stranger.call"}),
        ("trainer.strategy", "stranger.call"),
        ("trainer.accelerator", "stranger.call"),
    ],
)
def test_it_is_refused_by_name(run: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("other.yaml", "notes", "run/notes"):  # a parser reads settings out of any
        Path(file).write_text("class_path: stranger.Net\n")
    os.mkfifo("pipe")
    change(run, key, value)
    for verb in ("validate", "test", "predict"):
        assert main([verb, f"--ckpt_path={run}/checkpoints/best.ckpt"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{run}/config.yaml".removeprefix(f"{Path.cwd()}/") in line
        assert "could run any code" in line
        assert "--trust" in line
    if key.startswith("data"):
        assert main(["submit", str(run)]) == 2
        assert "could run any code" in capsys.readouterr().err
    assert_nothing_ran()


def test_what_scores_do_without_is_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watcher = {"class_path": "stranger.Watcher"}
    early = {"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": {"monitor": "val/miou"}}
    printed = {"class_path": "pytorch_lightning.callbacks.LambdaCallback", "init_args": {"setup": "stranger.call"}}
    borders = {"class_path": "hrseg.callbacks.BoundaryReport", "init_args": {"trimap_width": 3}}
    elsewhere = {"class_path": "hrseg.callbacks.PredictionFiles", "init_args": {"folder": "elsewhere"}}
    change(run, "trainer.callbacks", [watcher, early, printed, borders, elsewhere, "stranger.call"])
    for name in ("logger", "plugins", "strategy", "profiler"):
        change(run, f"trainer.{name}", watcher)
    change(run, "trainer.default_root_dir", "elsewhere")
    change(run, "run_dir", "elsewhere")
    assert main(["test", f"--ckpt_path={run}/checkpoints/best.ckpt"]) == 0
    captured = capsys.readouterr()
    assert "left out of run/config.yaml" in captured.out
    for name in ("stranger.Watcher", "stranger.call", "trainer.strategy", "trainer.plugins"):
        assert name in captured.out
    assert (run / "test" / "boundary.json").is_file()
    assert not Path("elsewhere").exists()
    assert_nothing_ran()


def test_weights_of_a_config_are_neither_fetched_nor_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("hrseg.models.factory.fetch_weights", fetch)
    for weights in ("imagenet", "cityscapes", "no/such/file.pth"):
        change(run, "model.weights", weights)
        assert main(["validate", f"--ckpt_path={run}/checkpoints/best.ckpt"]) == 0


def test_with_trust_and_from_what_the_user_types_anything_is_built(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = f"--ckpt_path={run}/checkpoints/best.ckpt"
    assert main(["validate", best, "--trainer.callbacks+=stranger.Watcher"]) == 0
    assert Path("called").exists()
    Path("called").unlink()
    change(run, "trainer.callbacks", [{"class_path": "stranger.Watcher"}])
    assert main(["validate", best, "--trust"]) == 0
    assert Path("called").exists()


@pytest.mark.parametrize("class_path", ["hrseg.losses.ModuleLoss", "torch.nn.DataParallel"])
def test_a_checkpoint_that_names_a_file_of_settings(
    class_path: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes").write_text("class_path: stranger.Net\n")
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    described = {"class_path": class_path, "init_args": {"module": "notes"}}
    content["hrseg"]["network"] = described
    content["hrseg"]["task"]["init_args"]["loss"] = described
    torch.save(content, "other.ckpt")
    write_image(Path("image.png"), np.zeros((64, 64, 3), np.uint8))
    assert main(["predict", "--ckpt_path=other.ckpt", "--images=image.png"]) == 2
    assert "names 'notes' under network" in capsys.readouterr().err
    for use in (Predictor.from_checkpoint, SegmentationTask.load_from_checkpoint):
        with pytest.raises(ConfigError, match="names 'notes' under"):
            use("other.ckpt")
    assert_nothing_ran()


def test_a_checkpoint_apart_from_its_run_asks_for_a_config(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("apart.ckpt").symlink_to(run / "checkpoints" / "best.ckpt")
    assert main(["validate", "--ckpt_path=apart.ckpt"]) == 2
    assert "no config.yaml of its run lies beside apart.ckpt; give --config" in capsys.readouterr().err
    assert main(["validate", "--ckpt_path=apart.ckpt", f"--config={run / 'config.yaml'}", "--run_dir=scored"]) == 0


def test_a_custom_data_module_is_verified_and_packed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings that `fit` takes, with untyped parameters and an unneeded custom network."""
    Path("stranger.py").write_text(DATA_MODULE)
    change(run, "data.class_path", "stranger.Data")
    best = f"--ckpt_path={run}/checkpoints/best.ckpt"
    assert main(["predict", best, "--trust"]) == 0
    change(run, "model.network", EVIL)
    assert main(["verify", f"--config={run / 'config.yaml'}"]) in (0, 1)
    assert main(["submit", str(run)]) == 2
    assert "names 'stranger.Data' under data.class_path" in capsys.readouterr().err
    assert main(["submit", str(run), "--trust"]) == 0


def test_a_custom_network_by_class_path(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoint describes the network, and is used if trusted."""
    root = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["root"]
    Path("own.yaml").write_text(RECIPE.format(root=root).replace("hrnetv2_w18_small_v1", "{class_path: stranger.Net}"))
    assert main(["fit", "--config=own.yaml", "--run_dir=own", "--trainer.limit_train_batches=1"]) == 0
    description = torch.load("own/checkpoints/best.ckpt", weights_only=True)["hrseg"]["network"]
    assert description == {"class_path": "stranger.Net", "init_args": {}}
    for name in ("imported", "called"):
        Path(name).unlink()
    sys.modules.pop("stranger")
    best = "--ckpt_path=own/checkpoints/best.ckpt"
    images = ["--images", f"{root}/val/0000.png"]
    capsys.readouterr()
    for arguments in (["validate", best], ["predict", best], ["predict", best, *images]):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "names 'stranger.Net'" in line
        assert_nothing_ran()
    for arguments in (["validate", best], ["predict", best], ["predict", best, *images]):
        assert main([*arguments, "--trust"]) == 0
