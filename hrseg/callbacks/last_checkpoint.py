"""`last.ckpt`, from which a training that was stopped or killed resumes exactly, and stopping on signals."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import distributed

from hrseg.errors import ConfigError
from hrseg.utils import signals
from hrseg.utils.files import TEMPORARY, require_file_or_nothing, require_writable
from hrseg.utils.signals import Interrupted

# requests of a rank: none, save, or stop, which is _SAVE plus the number of the signal; the largest wins
_GO_ON, _SAVE = range(2)


class StopOnSignal(Callback):
    """Ends a training with `Interrupted` at a step boundary after a signal (`hrseg.utils.signals`).

    All ranks stop at the same step, whichever received the signal; during validation, after it.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes over the signals."""
        if stage == "fit" and signals.is_watching():
            # Lightning's handlers save, and communicate with other ranks, in the middle of whatever they interrupt:
            # Lightning-AI/pytorch-lightning#21406
            trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Creates the process group of the all-reduce."""
        self._agreement = _Agreement(getattr(trainer.strategy, "_timeout", None))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops if a rank received a signal."""
        if batch_idx % trainer.accumulate_grad_batches:
            return  # not at a step boundary: gradients are being accumulated
        agreed = self._agreement.on(self._request())
        self._act(trainer, agreed)
        if agreed > _SAVE:
            raise Interrupted(agreed - _SAVE)

    def _request(self) -> int:
        received = signals.received()
        return _GO_ON if received is None else _SAVE + received

    def _act(self, trainer: Trainer, agreed: int) -> None:
        """Hook at a step boundary, before the training may end."""


class LastCheckpoint(StopOnSignal, Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run's folder.

    It is written after every epoch, and at step boundaries: at intervals of steps or minutes, and after a signal
    (`hrseg.utils.signals`), which then ends the training with `Interrupted`. A training that resumes there has the
    weights, optimiser state, order of the data and logged rows of one that was never stopped. All ranks save and stop
    at the same step, whichever received the signal; during validation, after it.

    Args:
        every_n_steps: Optimiser steps between two writes within an epoch; None for none.
        every_minutes: Minutes between two writes; None for none.

    Raises:
        ConfigError: An interval is not positive.
        OutputError: The file cannot be written; raised at the start of a training.
    """

    def __init__(self, every_n_steps: int | None = None, every_minutes: float | None = 30.0) -> None:
        for name, interval in {"every_n_steps": every_n_steps, "every_minutes": every_minutes}.items():
            if interval is not None and interval <= 0:
                raise ConfigError(f"LastCheckpoint: {name} is {interval}; expected more than 0, or null for never")
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self._is_saving = False
        self._saved_step: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the file can be written; removes partial files of a killed training; takes over the signals."""
        super().setup(trainer, pl_module, stage)
        self.path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        if stage == "fit" and trainer.is_global_zero:
            require_writable(self.path.parent)
            require_file_or_nothing(self.path)
            for left in self.path.parent.glob(f"{TEMPORARY}*.ckpt"):
                left.unlink(missing_ok=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Normalises the progress in `last.ckpt`; other checkpoints are not written at a step boundary."""
        if self._is_saving:
            _settle(checkpoint["loops"]["fit_loop"], trainer.global_step, trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        super().on_train_start(trainer, pl_module)
        self._saved_step = trainer.global_step
        self._saved_time = time.monotonic()

    def _act(self, trainer: Trainer, agreed: int) -> None:
        """Saves when due, and before the training ends."""
        steps = trainer.global_step - (self._saved_step or 0)
        if agreed > _GO_ON or (self.every_n_steps is not None and steps >= self.every_n_steps):
            self._save(trainer)

    def _request(self) -> int:
        minutes = (time.monotonic() - self._saved_time) / 60
        is_time = self.every_minutes is not None and minutes >= self.every_minutes
        return max(super()._request(), _SAVE if is_time else _GO_ON)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, after validation."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._is_saving = True
        try:
            trainer.save_checkpoint(self.path)
        finally:
            self._is_saving = False
        self._saved_step = trainer.global_step
        self._saved_time = time.monotonic()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Prints how to resume."""
        if self._saved_step is not None and self.path.is_file() and trainer.is_global_zero:
            folder = self.path.parents[1]
            print(f"stopped; {self.path} holds step {self._saved_step}. --run_dir {folder} resumes from it", flush=True)


def _settle(progress: dict[str, Any], steps: int, accumulate: int) -> None:
    """Turns the progress that Lightning saves into that of a step boundary, or of an epoch boundary.

    As saved, it counts a batch that was only fetched, and treats an epoch whose last hooks are running as unfinished. A
    restart would then validate at other steps, end such an epoch twice, and number logged rows one too high, depending
    on where it was (pytorch-lightning 2.6, _FitLoop and _TrainingEpochLoop).
    """
    epochs, batches = progress["epoch_progress"], progress["epoch_loop.batch_progress"]
    done = epochs["current"]["processed"]
    is_between_epochs = done == epochs["current"]["started"]
    if is_between_epochs and batches["current"]["completed"] and not batches["is_last_batch"]:
        # max_steps or max_time ended the epoch early: it goes on, and repeats the batches of an incomplete step
        done, is_between_epochs = done - 1, False
        half_done = batches["current"]["completed"] % accumulate
        for scope in ("total", "current"):
            batches[scope]["completed"] -= half_done
    if is_between_epochs:
        batches["current"]["completed"] = 0
    if is_between_epochs or batches["current"]["ready"] > batches["current"]["completed"]:
        batches["is_last_batch"] = False
    for scope in ("total", "current"):
        batches[scope] = dict.fromkeys(batches[scope], batches[scope]["completed"])
        started = done if is_between_epochs else done + 1
        epochs[scope] |= {"ready": done + 1, "started": started, "processed": done, "completed": done}
    # makes Lightning resume here without more than adding one to the number of logged rows
    batches["total"]["started"] -= 1
    progress["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - 1


class _Agreement:
    """Asynchronous all-reduce (max) of the ranks' requests to save and to stop, read one step later.

    It uses gloo, so that the host does not wait for the GPU either.
    """

    def __init__(self, timeout: timedelta | None) -> None:
        self._alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        self._group: Any = None if self._alone else distributed.new_group(backend="gloo", timeout=timeout)
        self._pending: distributed.Work | None = None
        self._largest = torch.tensor(_GO_ON)

    def on(self, request: int) -> int:
        """Returns the largest request of the previous call, or this one on a single rank."""
        if self._alone:
            return request
        agreed = _GO_ON
        if self._pending is not None:
            self._pending.wait()
            agreed = int(self._largest)
        self._largest = torch.tensor(request)
        self._pending = distributed.all_reduce(self._largest, distributed.ReduceOp.MAX, self._group, async_op=True)
        return agreed
