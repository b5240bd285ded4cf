"""`hrseg.fit`: a training like that of `hrseg fit`, from Python."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningDataModule, Trainer

from hrseg.callbacks.loggers import finish_loggers
from hrseg.errors import ConfigError
from hrseg.run import launch
from hrseg.run.config import comments_of, complaint, run_settings
from hrseg.run.folders import in_use, last_checkpoint, shared_run_dir
from hrseg.run.messages import quiet
from hrseg.run.options import DEFAULTS, check_options
from hrseg.run.trainer import make_trainer
from hrseg.task import SegmentationTask
from hrseg.utils import signals
from hrseg.utils.paths import expanded
from hrseg.utils.signals import Interrupted


def fit(
    task: SegmentationTask,
    data: LightningDataModule,
    *,
    experiment: str = "default",
    run_dir: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Trainer:
    """Trains with the files, checkpoints, scores and progress of `hrseg fit`; in a notebook on one device.

    When interrupted, it saves its state at the next step boundary and then raises the `KeyboardInterrupt`.

    Args:
        task: What to train.
        data: What to train on; may be a custom data module with batches that the task reads.
        experiment: Name of the folder under runs/.
        run_dir: The run's folder; runs/EXPERIMENT/N with the next free N by default. A training in a folder that holds
            checkpoints/last.ckpt resumes from it.
        callbacks: Further callbacks; one of a class that every run has replaces the run's own.
        options: Options of Lightning's `Trainer`, such as `max_epochs`. A `logger` is added to the run's own; False
            turns all off. Given as a class or a partial of one, `partial(WandbLogger, project="streets")`, it writes
            into the run's folder and continues after a restart.

    Returns:
        The trainer. Its `default_root_dir` is the run's folder, and `checkpoint_callback.best_model_path` the best
        checkpoint by val/miou.

    Raises:
        ConfigError: Task or data have the wrong type or do not fit together; srun or torchrun started another number of
            processes; or another training is running in the folder.
        OutputError: The folder cannot be written to.
        WeightsError: Its last.ckpt is damaged.

    >>> trainer = fit(task, data, max_epochs=10)  # doctest: +SKIP
    >>> predictor = Predictor.from_checkpoint(trainer.checkpoint_callback.best_model_path)  # doctest: +SKIP
    """
    _check(task, data)
    launch.require_srun()
    asked = {**DEFAULTS, **options, **({"callbacks": list(callbacks)} if callbacks else {})}
    options |= launch.processes(options)
    folder = shared_run_dir(experiment) if run_dir is None else expanded(run_dir)
    try:
        with in_use(folder, is_training=True), quiet():
            check_options(options)
            checkpoint = last_checkpoint(folder)
            settings, lacks = run_settings(task, data, experiment, asked)
            trainer = make_trainer(
                "fit",
                folder,
                task,
                data,
                options,
                checkpoint=checkpoint,
                settings=settings,
                comments=comments_of(task, lacks),
                callbacks=callbacks,
            )
            if lacks and trainer.is_global_zero:
                print(complaint(lacks), flush=True)
            try:
                with signals.watching():
                    trainer.fit(task, datamodule=data, ckpt_path=checkpoint and checkpoint.path)
            finally:
                finish_loggers(trainer, options.get("logger"))
    except BaseException as error:
        if isinstance(error, Interrupted):
            signal.raise_signal(error.signal)  # in a notebook Ctrl-C ends the cell, in a script the script
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None  # Ctrl-C twice: Lightning would end the notebook
        raise
    return trainer


def _check(task: object, data: object) -> None:
    """Raises a `ConfigError` where task or data are none, or do not belong together."""
    if not isinstance(task, SegmentationTask):
        raise ConfigError(
            f"the task is a {type(task).__name__}; expected a SegmentationTask, or an instance of a class derived from "
            "it. Lightning's own Trainer trains other modules"
        )
    if not hasattr(data, "train_dataloader"):  # Lightning has two classes of data modules, of which either will do
        raise ConfigError(f"the data are a {type(data).__name__}; expected a LightningDataModule, such as one of hrseg")
    for fact in ("labels", "input_size"):
        if getattr(task, fact) != getattr(data, fact, getattr(task, fact)):  # another data module may not have it
            raise ConfigError(f"the task's {fact} are not the data's; give SegmentationTask {fact}=data.{fact}")
