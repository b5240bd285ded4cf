"""Progressive resizing: low-resolution training in the first epochs."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.errors import ConfigError


class ProgressiveResizing(Callback):
    """Trains on downsampled crops in the first epochs, where a step costs less.

    Batches are downsampled on the device: images by average pooling, labels by taking one pixel of each square.
    Validation is unchanged.

    Args:
        epochs: Number of low-resolution epochs at the start.
        factor: Divisor of height and width.

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
        """Downsamples the batch in place."""
        if trainer.current_epoch >= self.epochs:
            return
        batch["image"] = F.avg_pool2d(batch["image"].float(), self.factor)
        height, width = batch["image"].shape[-2:]
        middle = self.factor // 2
        target = batch["target"][:, middle :: self.factor, middle :: self.factor]
        batch["target"] = target[:, :height, :width]
