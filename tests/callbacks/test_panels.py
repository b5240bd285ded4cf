from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hrseg.callbacks import PanelPictures
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.task import SegmentationTask


def test_the_same_images_are_shown_each_epoch(camvid_root: Path, tmp_path: Path) -> None:
    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        logger=TensorBoardLogger(tmp_path / "run", name="", version=""),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[PanelPictures(number=2, height=24)],
    )
    trainer.fit(SegmentationTask("hrnetv2_w18_small_v1", data.labels), data)

    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert set(events.Tags()["images"]) == {"val/0", "val/1"}
    for tag in ("val/0", "val/1"):
        pictures = events.Images(tag)
        assert [picture.step for picture in pictures] == [2, 4]
        assert all(picture.height == 24 for picture in pictures)
