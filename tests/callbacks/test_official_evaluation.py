from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.callbacks import OfficialEvaluation, ScoreTables
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.data.datasets.cityscapes import CityscapesDataModule
from hrseg.run.trainer import make_trainer
from hrseg.task import SegmentationTask
from hrseg.utils.images import read_label, write_image


@pytest.fixture
def task() -> SegmentationTask:
    torch.manual_seed(0)
    return SegmentationTask(
        "hrnetv2_w18_small_v1", CityscapesDataModule.labels, network_args={"init": "kaiming"}, test_protocol="whole"
    )


class ShareOfOneProcess(Callback):
    """Leaves one rank's counts in the metric, as torchmetrics does after `compute`."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.metrics.matrix = pl_module.metrics.matrix // 2 * (torch.rand(19, 20) < 0.5)


def run(task: SegmentationTask, root: Path, folder: Path) -> None:
    data = CityscapesDataModule(root, batch_size=2, crop_size=(64, 64), num_workers=0)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        callbacks=[
            ShareOfOneProcess(),
            ScoreTables(folder),
            OfficialEvaluation(folder, str(data.evaluator), data.evaluate_files),
        ],
    )
    trainer.test(task, data, verbose=False)


def test_the_official_scores_stand_beside_ours(
    task: SegmentationTask, cityscapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "run" / "test" / "labels" / "lindau_000009_000019.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of an earlier test")
    run(task, cityscapes_root, tmp_path / "run")
    official = json.loads((tmp_path / "run" / "test" / "cityscapesscripts.json").read_text())
    ours = json.loads((tmp_path / "run" / "test" / "scores.json").read_text())
    assert official["miou"] == pytest.approx(ours["miou"], abs=1e-12)
    assert official["category_miou"] == pytest.approx(ours["category_miou"], abs=1e-12)
    assert official["classes"] == pytest.approx(ours["classes"], abs=1e-12)
    assert float(capsys.readouterr().out.partition("differs from ours by ")[2].split()[0]) < 1e-12
    assert (official["split"], official["network"]) == ("val", "hrnetv2_w18_small_v1")
    files = sorted((tmp_path / "run" / "test" / "labels").iterdir())
    assert [file.name for file in files] == [f"lindau_{frame:06d}_000019.png" for frame in range(3)]
    assert set(read_label(files[0]).flatten().tolist()) <= set(task.labels.label_ids or ())


def test_ready_train_ids_cannot_be_given_to_the_evaluator(
    task: SegmentationTask, cityscapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in (cityscapes_root / "gtFine" / "val").rglob("*_labelIds.png"):
        write_image(label.with_name(label.name.replace("labelIds", "labelTrainIds")), np.zeros((64, 128), np.uint8))
        label.unlink()
    run(task, cityscapes_root, tmp_path / "run")
    assert "cityscapesscripts: not run" in capsys.readouterr().out
    assert not (tmp_path / "run" / "test" / "cityscapesscripts.json").exists()


class ScoredCamVid(CamVidDataModule):
    """CamVid with an evaluator that counts correct pixels."""

    evaluator = "right_pixels"

    def evaluate_files(self, pairs: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
        return {"miou": float(np.mean([read_label(prediction) == read_label(truth) for prediction, truth in pairs]))}


@pytest.mark.parametrize("module", [CamVidDataModule, ScoredCamVid])
def test_a_data_module_names_its_evaluator(
    module: type[CamVidDataModule], camvid_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = module(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0, test_split="val")
    task = SegmentationTask(
        "hrnetv2_w18_small_v1", data.labels, network_args={"init": "kaiming"}, test_protocol="whole"
    )
    make_trainer("test", tmp_path / "run", task, data, {"accelerator": "cpu", "devices": 1}).test(task, data)
    names = {path.name for path in (tmp_path / "run" / "test").iterdir()}
    assert ("right_pixels, from the files: mIoU " in capsys.readouterr().out) == (module is ScoredCamVid)
    assert {"labels", "right_pixels.json"} & names == ({"labels", "right_pixels.json"} if data.evaluator else set())
