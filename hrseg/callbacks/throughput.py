"""Training throughput, data wait and peak memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from hrseg.utils.memory import peak_memory

_WINDOW = 20


class Throughput(Callback):
    """Logs images per second over all ranks, the fraction of a step spent waiting for data, and the peak memory.

    The first two are means over the last 20 steps of an epoch. The batch size is the length of batch["image"], or of
    the first tensor in other batches. The memory, in GiB, is the memory allocated by PyTorch on a GPU, and the resident
    memory of the process on a CPU.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[float, float, int]] = deque(maxlen=_WINDOW)
        self._last_end = 0.0
        self._start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restarts the measurement, excluding the time between epochs."""
        self._steps.clear()
        self._last_end = time.perf_counter()

    on_train_start = on_train_epoch_start  # a training may resume within an epoch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Marks the end of the data wait."""
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Marks the end of the step and logs."""
        now = time.perf_counter()
        images = _batch_size(batch) * trainer.world_size
        self._steps.append((self._start - self._last_end, now - self._last_end, images))
        self._last_end = now
        waited, taken, seen = (sum(column) for column in zip(*self._steps, strict=True))
        pl_module.log("images/s", seen / taken, prog_bar=True)
        pl_module.log_dict({"data_wait": waited / taken, "peak_memory_gib": peak_memory(pl_module.device)})


def _batch_size(batch: Any) -> int:
    """Length of batch["image"], or of the first tensor in a batch of another structure; 0 without any."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    if isinstance(batch, Mapping):
        batch = [batch["image"]] if "image" in batch else list(batch.values())
    sizes = map(_batch_size, batch) if isinstance(batch, (list, tuple)) else ()
    return next((size for size in sizes if size), 0)
