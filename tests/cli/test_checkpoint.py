"""Pretrained weights of other code bases, scored and used through the command without training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from hrseg.cli import main
from hrseg.data.datasets.camvid import CAMVID
from hrseg.inference import Predictor
from hrseg.models import create_model
from hrseg.task import SegmentationTask
from hrseg.utils.images import read_image, read_label, write_image
from tests.models.weights.test_layouts import OCR, SMALL, lively, without
from tests.references.foreign_names import MMSEG_FCN, NVIDIA, renamed


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A file of mmsegmentation for CamVid."""
    _, weights = lively(SMALL, num_classes=11)
    path = tmp_path / "fcn_hr18s.pth"
    torch.save({"meta": {}, "state_dict": renamed(without(weights, "last_layer.0"), MMSEG_FCN)}, path)
    return path


def test_scores(recipe: Path, foreign: Path, tmp_path: Path) -> None:
    """Equal to the scores of the same weights in one of our checkpoints."""
    assert main(["test", f"--config={recipe}", f"--model.weights={foreign}"]) == 0
    direct = json.loads(Path("runs/toy/0/test/scores.json").read_text())
    assert not Path("runs/toy/0/checkpoints").exists()

    network, _ = lively(SMALL, num_classes=11)
    task = SegmentationTask(SMALL, CAMVID)
    task.network.load_state_dict(network.state_dict())
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "ours.ckpt")
    assert main(["test", f"--config={recipe}", f"--ckpt_path={tmp_path / 'ours.ckpt'}"]) == 0
    scores = json.loads(Path("runs/toy/1/test/scores.json").read_text())
    assert scores["miou"] == pytest.approx(direct["miou"])


def test_pictures(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    write_image(tmp_path / "street.png", pixels)
    arguments = ["predict", "--images", str(tmp_path / "street.png"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--ckpt_path", str(foreign), "--labels", "camvid"]) == 0
    expected = Predictor(create_model(from_file=foreign), CAMVID, device="cpu")(tmp_path / "street.png")
    written = read_label(tmp_path / "out" / "labels" / "street.png")
    np.testing.assert_array_equal(written, CAMVID.decode(expected))
    assert read_image(tmp_path / "out" / "overlays" / "street.png").shape[1] >= 64

    capsys.readouterr()
    for labels, message in (
        ("cityscapes", "has 11 classes, Cityscapes has 19; give other --labels"),
        ("camvit", "unknown labels 'camvit'; did you mean camvid? Expected one of"),
    ):
        assert main([*arguments, "--ckpt_path", str(foreign), "--labels", labels]) == 2
        assert message in capsys.readouterr().err
    assert main([*arguments, "--ckpt_path", str(foreign)]) == 2
    assert "need their classes: --labels" in capsys.readouterr().err


def test_weights_of_something_else(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, weights = lively(OCR, align_corners=False)
    torch.save({"state_dict": renamed(weights, NVIDIA)}, tmp_path / "ocr.pth")
    assert main(["validate", f"--config={recipe}", f"--model.weights={tmp_path / 'ocr.pth'}"]) == 2
    assert f"Build the network with '{OCR}'" in capsys.readouterr().err
    backbone = {name: value for name, value in weights.items() if "head" not in name and "ocr" not in name}
    torch.save(backbone, tmp_path / "backbone.pth")
    assert main(["validate", f"--config={recipe}", f"--model.weights={tmp_path / 'backbone.pth'}"]) == 2
    assert "leaves the head of hrnetv2_w18_small_v1 at random" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--model.weights=hrnetv2_w18_small_v1.imagenet"], f"leaves the head of {SMALL} at random"),
        (["--model.weights=hrnetv1_w32.imagenet_pose"], f"leaves the head of {SMALL} at random"),
        (["--model.weights=hrnetv2_w48.cityscapes"], "is of hrnetv2_w48; give --model.network hrnetv2_w48"),
        (["--model.weights={foreign}", "--model.reinit_head=true"], f"model.reinit_head leaves the head of {SMALL} at"),
    ],
)
def test_a_head_at_random_is_not_scored(
    verb: str,
    settings: list[str],
    message: str,
    recipe: Path,
    foreign: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = [setting.format(foreign=foreign) for setting in settings]
    assert main([verb, f"--config={recipe}", *settings]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("runs").exists()
