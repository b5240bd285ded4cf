from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import Trainer

from hrseg.callbacks import ContactSheet
from hrseg.callbacks.contact_sheet import batch_panels
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.task import SegmentationTask
from hrseg.utils.images import read_image


def test_panels_are_those_of_the_batch() -> None:
    maps = torch.zeros(2, 40, 60, dtype=torch.uint8)
    batch = {"image": torch.full((2, 3, 40, 60), 7, dtype=torch.uint8), "target": maps}
    task = SegmentationTask("hrnetv2_w18_small_v1", CamVidDataModule.labels)
    pictures = batch_panels(batch, {"prediction": maps}, task, height=1000)
    assert [picture.shape[0] for picture in pictures] == [40, 40]
    np.testing.assert_array_equal(pictures[0][:, :60], np.full((40, 60, 3), 7))
    assert batch_panels(batch, {"prediction": maps}, task, height=20)[0].shape[0] == 20


def test_the_sheet_holds_the_first_images(camvid_root: Path, tmp_path: Path) -> None:
    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0)
    task = SegmentationTask("hrnetv2_w18_small_v1", data.labels)
    heights = []
    for number in (1, 2):
        sheet = ContactSheet(tmp_path, number=number, height=24)
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[sheet],
        )
        trainer.test(task, data, verbose=False)
        heights.append(read_image(tmp_path / "test" / "contact_sheet.png").shape[0])
    assert heights[1] - heights[0] >= 24
