"""The checkpoint that a training goes on from after a stop or a kill, as if nothing had happened."""

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

# what a rank requests: nothing, to save, or to stop, which is _SAVE plus the number of the signal; the largest counts
_GO_ON, _SAVE = range(2)


class StopOnSignal(Callback):
    """Ends a training with `Interrupted` between two steps once a signal came (`hrseg.utils.signals`).

    All ranks stop at the same step, whichever of them got the signal. A signal during validation is answered after it.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes over the signals."""
        if stage == "fit" and signals.is_watching():
            # Lightning's handlers save, and talk to other processes, in the middle of whatever they interrupt:
            # Lightning-AI/pytorch-lightning#21406
            trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets up the all-reduce."""
        self._agreement = _Agreement(getattr(trainer.strategy, "_timeout", None))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops if asked to."""
        if batch_idx % trainer.accumulate_grad_batches:
            return  # a step is half done
        agreed = self._agreement.on(self._request())
        self._act(trainer, agreed)
        if agreed > _SAVE:
            raise Interrupted(agreed - _SAVE)

    def _request(self) -> int:
        received = signals.received()
        return _GO_ON if received is None else _SAVE + received

    def _act(self, trainer: Trainer, agreed: int) -> None:
        """What is done between two steps before the training may end."""


class LastCheckpoint(StopOnSignal, Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run's folder.

    It is written after every epoch, and between two steps: after so many steps or minutes, and when a signal came
    (`hrseg.utils.signals`), whereupon the training ends with `Interrupted`. Between two steps nothing is half done, so
    that the weights, the optimiser, the order of the data and the logged rows of a training that goes on from there
    are those of one that was never stopped. All processes save and stop at the same step, whichever of them got the
    signal. A signal during validation is answered after it.

    Args:
        every_n_steps: Optimiser steps between two writes within an epoch; None for none.
        every_minutes: Likewise in minutes.

    Raises:
        ConfigError: An interval is not positive.
        OutputError: At the start of a training: the file cannot be written.
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
        """Settles and tries the place, removes what a kill left of a file in the making, and takes over the signals."""
        super().setup(trainer, pl_module, stage)
        self.path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        if stage == "fit" and trainer.is_global_zero:
            require_writable(self.path.parent)
            require_file_or_nothing(self.path)
            for left in self.path.parent.glob(f"{TEMPORARY}*.ckpt"):
                left.unlink(missing_ok=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Settles the progress in `last.ckpt`; other checkpoints are written in the middle of something."""
        if self._is_saving:
            _settle(checkpoint["loops"]["fit_loop"], trainer.global_step, trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        super().on_train_start(trainer, pl_module)
        self._saved_step = trainer.global_step
        self._saved_time = time.monotonic()

    def _act(self, trainer: Trainer, agreed: int) -> None:
        """Saves if it is time to, or before the training ends."""
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
        """Says where to go on from."""
        if self._saved_step is not None and self.path.is_file() and trainer.is_global_zero:
            folder = self.path.parents[1]
            print(
                f"stopped; {self.path} holds step {self._saved_step}. --run_dir {folder} goes on from there", flush=True
            )


def _settle(progress: dict[str, Any], steps: int, accumulate: int) -> None:
    """Makes of the progress that Lightning saves one between two steps, or between two epochs.

    As saved, it counts a batch that was only fetched, and an epoch whose last hooks are under way as unfinished. A
    restart would then validate at other steps, end such an epoch twice, and number the logged rows one too high or not,
    depending on where it was (pytorch-lightning 2.6, _FitLoop and _TrainingEpochLoop).
    """
    epochs, batches = progress["epoch_progress"], progress["epoch_loop.batch_progress"]
    done = epochs["current"]["processed"]
    is_between_epochs = done == epochs["current"]["started"]
    if is_between_epochs and batches["current"]["completed"] and not batches["is_last_batch"]:
        # max_steps or max_time ended the epoch early: it goes on, with the batches of a step that was half done again
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
    # so Lightning takes it for a place of which it knows nothing but to add one to the number of the rows
    batches["total"]["started"] -= 1
    progress["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - 1


class _Agreement:
    """Asynchronous all-reduce (max) of the ranks' requests to save and to stop, read one step later.

    It goes over gloo, so that the host does not wait for the GPU either.
    """

    def __init__(self, timeout: timedelta | None) -> None:
        self._alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        self._group: Any = None if self._alone else distributed.new_group(backend="gloo", timeout=timeout)
        self._under_way: distributed.Work | None = None
        self._largest = torch.tensor(_GO_ON)

    def on(self, request: int) -> int:
        """The largest request at the call before, or this one if there is one rank."""
        if self._alone:
            return request
        agreed = _GO_ON
        if self._under_way is not None:
            self._under_way.wait()
            agreed = int(self._largest)
        self._largest = torch.tensor(request)
        self._under_way = distributed.all_reduce(self._largest, distributed.ReduceOp.MAX, self._group, async_op=True)
        return agreed
