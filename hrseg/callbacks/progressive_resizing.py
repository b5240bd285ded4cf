"""Small images first, large ones later."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.errors import ConfigError


class ProgressiveResizing(Callback):
    """Trains on smaller images in the first epochs: a step costs less, so that more of them fit into the same time.

    Batches are made smaller on the device, what they show stays: images by averaging, labels by picking one pixel of
    each square. Validation is left as it is.

    Args:
        epochs: Number of epochs, from the first, with small images.
        factor: What height and width are divided by.

    Raises:
        ConfigError: `epochs` is negative, or `factor` below 1.

    Source:
        J. Howard, "Training Imagenet in 3 hours for USD 25", fast.ai, 2018.
    """

    def __init__(self, epochs: int, factor: int = 2) -> None:
        if epochs < 0 or factor < 1:
            raise ConfigError(f"ProgressiveResizing: epochs {epochs}, factor {factor}; expected 0 and 1 or more")
        self.epochs = epochs
        self.factor = factor

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Makes the batch smaller, in place of the one that was loaded."""
        if trainer.current_epoch >= self.epochs:
            return
        batch["image"] = F.avg_pool2d(batch["image"].float(), self.factor)
        height, width = batch["image"].shape[-2:]
        middle = self.factor // 2
        target = batch["target"][:, middle :: self.factor, middle :: self.factor]
        batch["target"] = target[:, :height, :width]
