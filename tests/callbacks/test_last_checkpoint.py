from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from hrseg.callbacks import LastCheckpoint
from hrseg.data.camvid import CamVidDataModule
from hrseg.task import SegmentationTask


class Stop(Callback):
    def __init__(self, step: int, error: BaseException) -> None:
        self.step = step
        self.error = error

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise self.error


# Lightning says that the rest of the epoch is drawn from its start again
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken")], ids=["Ctrl-C", "error"])
def test_a_training_that_stops_can_go_on(
    error: BaseException, camvid_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trainer(*callbacks: Callback) -> Trainer:
        return Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            max_epochs=2,
            callbacks=[LastCheckpoint(tmp_path / "run" / "checkpoints"), *callbacks],
        )

    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises((SystemExit, ValueError)):
        trainer(Stop(3, error)).fit(SegmentationTask("hrnetv2_w18_small_v1", data.labels), data)
    assert torch.load(path, weights_only=True)["global_step"] == 3
    assert f"--run_dir {tmp_path / 'run'} goes on from there" in capsys.readouterr().out

    runner = trainer()
    runner.fit(SegmentationTask("hrnetv2_w18_small_v1", data.labels), data, ckpt_path=path)
    assert runner.global_step == 4
