from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from hrseg.callbacks import BoundaryReport
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.metrics import BoundaryScores
from hrseg.task import SegmentationTask


def test_the_borders_of_a_test_are_scored(
    camvid_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0)
    torch.manual_seed(0)
    task = SegmentationTask("hrnetv2_w18_small_v1", data.labels, network_args={"init": "kaiming"})
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path / "run",
        callbacks=[BoundaryReport(boundary_share=0.05, trimap_width=2)],
    )
    trainer.test(task, data, verbose=False)
    report = json.loads((tmp_path / "run" / "test" / "boundary.json").read_text())
    expected = BoundaryScores(11, boundary_share=0.05, trimap_width=2)
    task.eval()
    for item in data.test_dataloader():
        expected.update(task(item["image"]).argmax(1)[0].to(torch.uint8), item["target"][0])
    scores = expected.compute()
    assert report["boundary_miou"] == pytest.approx(scores["boundary_miou"].item(), abs=1e-3)
    assert list(report["boundary_iou"]) == list(data.labels.class_names)
    assert "accuracy within 2 pixels" in capsys.readouterr().out
