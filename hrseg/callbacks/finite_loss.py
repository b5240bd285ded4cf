"""What happens when the loss is not a finite number."""

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
    "lower the learning rate, clip gradients (--config experiments/options/gradient_clipping.yaml), or leave a few "
    "such steps out (trainer.callbacks: hrseg.callbacks.FiniteLoss, max_skipped)"
)


class FiniteLoss(Callback):
    """Stops a training whose loss is infinite or not a number, before the step that would spoil the weights.

    The names of the batch's files go to `not_finite/step_N.process_R.json` in the run's folder, with the crops as the
    network saw them beside it; of each process whose own loss it is. All processes stop, or leave the step out, alike.

    Args:
        max_skipped: How many steps may be left out before the training stops; such a step changes neither weights nor
            optimiser nor the statistics of batch norm.

    Raises:
        ConfigError: The number is negative.
        TrainingError: In a training, when it stops.
    """

    def __init__(self, max_skipped: int = 0) -> None:
        if max_skipped < 0:
            raise ConfigError(f"FiniteLoss: max_skipped is {max_skipped}; expected 0 or more")
        self.max_skipped = max_skipped
        self._skipped = 0
        self._batches: list[_Batch] = []  # of the step, several under accumulation
        self._statistics: list[Tensor] = []  # before the step

    def state_dict(self) -> dict[str, Any]:
        """How many steps were left out so far."""
        return {"skipped": self._skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self._skipped = int(state_dict.get("skipped", 0))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers what the step may have to give back or to show."""
        self._batch = batch
        if self.max_skipped and not self._batches:
            self._statistics = [buffer.clone() for buffer in pl_module.buffers()]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Looks at the loss, without waiting for it."""
        is_bad = ~loss.detach().isfinite()
        of_any = is_bad.to(torch.uint8)
        if trainer.world_size > 1:
            distributed.all_reduce(of_any, distributed.ReduceOp.MAX)
        self._batches.append(_Batch(self._batch, _Later(torch.stack([of_any, is_bad]))))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Stops the training, or takes the step out, if a loss in it was not finite."""
        batches, self._batches = self._batches, []
        if not any(batch.is_bad.read()[0] for batch in batches):
            return
        step, folder = trainer.global_step, Path(trainer.default_root_dir) / "not_finite"
        mine = [batch.content for batch in batches if batch.is_bad.read()[1]]
        if mine:
            _keep(mine, step, trainer.global_rank, folder)
        found = f"the loss of step {step} is not finite; the files of its batch are in {folder}"
        if self._skipped >= self.max_skipped:
            before = f"; {self._skipped} steps were left out for that already" if self._skipped else ""
            raise TrainingError(f"{found}{before}; {_REMEDY}")
        self._skipped += 1
        if trainer.is_global_zero:
            _log.warning("%s; it is left out, as %d of at most %d", found, self._skipped, self.max_skipped)
        optimizer.zero_grad(set_to_none=True)  # an optimiser passes over parameters without a gradient
        for buffer, value in zip(pl_module.buffers(), self._statistics, strict=True):
            buffer.copy_(value)


class _Later:
    """Numbers of the device that the host reads when they are there, without waiting for what was queued after them."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=values.is_cuda)
        self._there = torch.cuda.Event() if values.is_cuda else None  # type: ignore[no-untyped-call]
        if self._there is not None:
            self._there.record()

    def read(self) -> list[float]:
        if self._there is not None:
            self._there.synchronize()
        return list(self._values.tolist())


class _Batch(NamedTuple):
    """A batch, and whether its loss is bad: of any process, and of this one."""

    content: Any
    is_bad: _Later


def _keep(batches: list[Any], step: int, process: int, folder: Path) -> None:
    """Writes names and crops of batches."""
    # a user's own data module may make batches of another structure
    batches = [batch for batch in batches if isinstance(batch, Mapping) and {"name", "image", "target"} <= batch.keys()]
    names = [name for batch in batches for name in batch["name"]]
    write_json(folder / f"step_{step}.process_{process}.json", {"step": step, "process": process, "files": names})
    for batch in batches:
        for name, image, target in zip(batch["name"], batch["image"], batch["target"], strict=True):
            place = folder / f"step_{step}" / name
            write_image(place.with_name(f"{place.name}.image.png"), image.permute(1, 2, 0).cpu().numpy())
            write_image(place.with_name(f"{place.name}.label.png"), target.cpu().numpy())
