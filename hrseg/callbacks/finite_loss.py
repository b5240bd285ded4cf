"""Detection of losses that are infinite or NaN."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from hrseg.errors import ConfigError, TrainingError
from hrseg.utils.files import write_json
from hrseg.utils.images import write_image

_log = logging.getLogger(__name__)

_REMEDY = (
    "lower the learning rate, clip gradients (--config experiments/options/gradient_clipping.yaml), or skip a few "
    "such steps (trainer.callbacks: hrseg.callbacks.FiniteLoss, max_skipped)"
)


class FiniteLoss(Callback):
    """Stops the training if the loss is infinite or NaN, before the optimiser step that would corrupt the weights.

    Each rank with a non-finite loss writes the file names of its batch to `not_finite/step_N.process_R.json` in the run
    folder, with the crops as the network saw them. All ranks stop, or skip the step, together.

    Args:
        max_skipped: Number of steps that may be skipped before the training stops. A skipped step changes neither the
            weights nor the optimiser state nor the running statistics of batch norm.

    Raises:
        ConfigError: `max_skipped` is negative.
        TrainingError: When it stops the training.
    """

    def __init__(self, max_skipped: int = 0) -> None:
        if max_skipped < 0:
            raise ConfigError(f"FiniteLoss: max_skipped is {max_skipped}; expected 0 or more")
        self.max_skipped = max_skipped
        self._skipped = 0
        self._batches: list[_Batch] = []  # of the current step; several under gradient accumulation
        self._statistics: list[Tensor] = []  # before the step

    def state_dict(self) -> dict[str, Any]:
        """The number of steps skipped so far."""
        return {"skipped": self._skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the number of skipped steps."""
        self._skipped = int(state_dict.get("skipped", 0))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keeps the batch and, if steps may be skipped, the buffers."""
        self._batch = batch
        if self.max_skipped and not self._batches:
            self._statistics = [buffer.clone() for buffer in pl_module.buffers()]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Starts the check of the loss without a host sync."""
        is_bad = ~loss.detach().isfinite()
        of_any = is_bad.to(torch.uint8)
        if trainer.world_size > 1:
            distributed.all_reduce(of_any, distributed.ReduceOp.MAX)
        self._batches.append(_Batch(self._batch, AsyncCopy(torch.stack([of_any, is_bad]))))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Stops the training or skips the step if one of its losses was not finite."""
        batches, self._batches = self._batches, []
        if not any(batch.is_bad.read()[0] for batch in batches):
            return
        step, folder = trainer.global_step, Path(trainer.default_root_dir) / "not_finite"
        mine = [batch.content for batch in batches if batch.is_bad.read()[1]]
        if mine:
            _write_batches(mine, step, trainer.global_rank, folder)
        found = f"the loss of step {step} is not finite; the files of its batch are in {folder}"
        if self._skipped >= self.max_skipped:
            before = f"; {self._skipped} such steps were already skipped" if self._skipped else ""
            raise TrainingError(f"{found}{before}; {_REMEDY}")
        self._skipped += 1
        if trainer.is_global_zero:
            _log.warning("%s; the step is skipped, %d of at most %d", found, self._skipped, self.max_skipped)
        optimizer.zero_grad(set_to_none=True)  # optimisers skip parameters without a gradient
        for buffer, value in zip(pl_module.buffers(), self._statistics, strict=True):
            buffer.copy_(value)


class AsyncCopy:
    """Non-blocking device-to-host copy."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=values.is_cuda)
        self._copied = torch.cuda.Event() if values.is_cuda else None  # type: ignore[no-untyped-call]
        if self._copied is not None:
            self._copied.record()

    def read(self) -> list[float]:
        """Waits for the copy, but not for work queued after it."""
        if self._copied is not None:
            self._copied.synchronize()
        return list(self._values.tolist())


class _Batch(NamedTuple):
    """A batch and whether its loss is not finite: on any rank, and on this one."""

    content: Any
    is_bad: AsyncCopy


def _write_batches(batches: list[Any], step: int, process: int, folder: Path) -> None:
    """Writes the file names and crops of batches."""
    # custom data modules may have other batches
    batches = [batch for batch in batches if isinstance(batch, Mapping) and {"name", "image", "target"} <= batch.keys()]
    names = [name for batch in batches for name in batch["name"]]
    write_json(folder / f"step_{step}.process_{process}.json", {"step": step, "process": process, "files": names})
    for batch in batches:
        for name, image, target in zip(batch["name"], batch["image"], batch["target"], strict=True):
            place = folder / f"step_{step}" / name
            write_image(place.with_name(f"{place.name}.image.png"), image.permute(1, 2, 0).cpu().numpy())
            write_image(place.with_name(f"{place.name}.label.png"), target.cpu().numpy())
