"""The blocks of CONTRIBUTING.md, put into the files that it names, do what it says."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import hrseg
import hrseg.models.networks  # registers hrseg's own, which stay
from hrseg.cli import VERBS, main
from hrseg.models.registry import BUILDERS, FAMILIES
from hrseg.utils.images import write_image
from tests.conftest import write_jpeg
from tests.docs.blocks import ROOT, blocks_of

BLOCKS = {block.file: block.text for block in blocks_of(ROOT / "CONTRIBUTING.md") if block.file is not None}
TINY = ["--trainer.accelerator=cpu", "--trainer.devices=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory: the files of the page and a small copy of its data set."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in BLOCKS.items():
        (folder / name).write_text(text)
    rng = np.random.default_rng(0)
    for number in range(4):
        root, name = folder / "data" / "mine", f"day/{number}"
        write_jpeg(root / "images" / f"{name}.jpg", rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
        write_image(root / "masks" / f"{name}.png", rng.choice(np.array([0, 3, 7], np.uint8), (64, 96)))
    registries: tuple[dict[str, Any], ...] = (FAMILIES, BUILDERS)
    before = [dict(registry) for registry in registries]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        patch.setenv("HRSEG_HOME", str(folder / "home"))
        patch.delenv("LOCAL_RANK", raising=False)
        yield folder
    for registry, known in zip(registries, before, strict=True):
        registry.clear()
        registry.update(known)
    for name in BLOCKS:
        sys.modules.pop(Path(name).stem, None)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run with the data set, the network, the loss and the callback of the page."""
    output = io.StringIO()
    with redirect_stdout(output):
        assert main(["fit", "--config=gloves.yaml", "--run_dir=run", *TINY]) == 0
    assert "epoch 0 ended" in output.getvalue()
    return folder / "run"


def test_a_data_set_a_network_a_loss_and_a_callback_are_trained_with(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    paths = [config["data"]["class_path"], *(config["model"][key]["class_path"] for key in ("network", "loss"))]
    assert paths == ["gloves.GlovesDataModule", "shallow.ShallowNet", "focal.FocalLoss"]
    assert (run / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_verb_of_lightning_takes_the_data_set(verb: str, run: Path) -> None:
    options = ["--ckpt_path=run/checkpoints/best.ckpt", *TINY]
    assert main([verb, *options]) == 2  # the run's config.yaml names a class of no known package
    assert main([verb, *options, "--trust"]) == 0


def test_the_other_verbs_take_the_data_set(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--config=gloves.yaml"]) == 0
    assert main(["predict", "--ckpt_path=run/checkpoints/best.ckpt", "--trust", *TINY]) == 0
    assert main(["submit", "run", "--trust"]) == 0
    images = ["--images", "data/mine/images/day/0.jpg", "--output=out", "--device=cpu", "--trust"]
    assert main(["predict", *images, "--ckpt_path=run/checkpoints/best.ckpt"]) == 0
    output = capsys.readouterr().out
    for line in ("Gloves: 2 train, 2 val", "2 predictions of Gloves val", "1 of 1 images predicted"):
        assert line in output


def test_a_registered_network_goes_by_its_name(run: Path) -> None:
    assert hrseg.list_models("shallow*") == ["shallow_s", "shallow_l"]
    assert hrseg.create_model("shallow_s", num_classes=3).config["num_classes"] == 3


def test_a_verb_is_called(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(VERBS, "hello", ("hello", "greet"))
    assert main(["hello", "you"]) == 0
    assert capsys.readouterr().out == "Hello, you\n"


def test_a_layout_converts(folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS["layout.py"], names)
    entries = {"net.stem.weight": 1, "net.fc.bias": 2, "ema.net.fc.bias": 3}
    assert names["SHALLOW"].is_of(entries)
    found, dropped = names["SHALLOW"].convert(entries, {"stem.weight", "classifier.bias"}.__contains__)
    assert found == {"stem.weight": 1, "classifier.bias": 2}
    assert dropped == {"ema.net.fc.bias": "of its moving average"}
