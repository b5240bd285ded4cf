"""Files written by `hrseg predict` for a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.inference.certainty import Certainty, CertaintyOptions
from hrseg.inference.writer import IMAGES, write_prediction, written_files
from hrseg.task import SegmentationTask
from hrseg.utils.resize import resize_image
from hrseg.utils.threads import OrderedThreads

_NONE = CertaintyOptions()


class PredictionFiles(Callback):
    """Writes label ids and overlays, in threads behind the network.

    Args:
        folder: Parent of the folders of files; see `write_prediction`.
        certainty: What to write beside labels and overlays.
    """

    def __init__(self, folder: Path, certainty: CertaintyOptions = _NONE) -> None:
        self.folder = folder
        self.certainty = certainty
        self._writing: OrderedThreads[None] | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the record of `--images`: their predictions with a sample's name are overwritten."""
        assert isinstance(pl_module, SegmentationTask)
        pl_module.reduce_probabilities = self.certainty.reduce if self.certainty.is_needed else None
        self._writing = OrderedThreads(1 if self.certainty.probabilities else None)  # they are large
        if trainer.is_global_zero:
            (self.folder / IMAGES).unlink(missing_ok=True)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        """Writes the files of one batch, later; raises the errors of earlier ones."""
        assert isinstance(pl_module, SegmentationTask)
        assert self._writing is not None
        certainties = outputs.get("probabilities") or [Certainty()] * len(batch["name"])
        found = zip(batch["name"], batch["image"], outputs["prediction"], certainties, strict=True)
        for name, image, prediction, certainty in found:
            pixels = resize_image(image.permute(1, 2, 0).cpu().numpy(), prediction.shape)
            arguments = self.folder, name, pixels, prediction.cpu().numpy(), pl_module.labels, certainty
            self._writing.submit(write_prediction, *arguments)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits for the last files, and prints where all are."""
        assert self._writing is not None
        self._writing.finish()
        self._writing.close()
        if trainer.is_global_zero:
            print(written_files(self.folder, self.certainty), flush=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the threads."""
        if self._writing is not None:
            self._writing.close()
