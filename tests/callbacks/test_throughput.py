from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from hrseg.callbacks import Throughput
from hrseg.data.camvid import CamVidDataModule
from hrseg.data.dataset import SegmentationDataset
from hrseg.task import SegmentationTask


class Watch(Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        names = ("images/s", "data_wait", "peak_memory_gib")
        self.seen.append({name: float(trainer.callback_metrics[name]) for name in names})


def test_a_slow_loader_shows(camvid_root: Path, monkeypatch: Any) -> None:
    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0)

    def waits(seconds: float) -> dict[str, float]:
        load = SegmentationDataset.__getitems__

        def slow(self: SegmentationDataset, keys: Any) -> Any:
            time.sleep(seconds)
            return load(self, keys)

        with monkeypatch.context() as patch:
            patch.setattr(SegmentationDataset, "__getitems__", slow)
            watch = Watch()
            quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
            trainer = Trainer(
                accelerator="cpu",
                devices=1,
                max_epochs=1,
                limit_val_batches=0,
                enable_model_summary=False,
                callbacks=[Throughput(), watch],
                **quiet,  # type: ignore[arg-type]
            )
            trainer.fit(SegmentationTask("hrnetv2_w18_small_v1", data.labels), data)
        return watch.seen[-1]

    seen = waits(30.0 * 0.1)
    assert 0.4 < seen["data_wait"] <= 1  # three seconds of sleep against one small step
    assert 0 < seen["images/s"] < 2
    assert 0.01 < seen["peak_memory_gib"] < 64
