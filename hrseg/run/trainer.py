"""The `Trainer` of a run, for `hrseg.fit` and for the verbs fit, validate, test and predict."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar, Timer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy
from rich.console import Console

from hrseg.callbacks import (
    AtomicCheckpointIO,
    ContactSheet,
    FiniteLoss,
    LabelWarnings,
    LastCheckpoint,
    MetricsCsv,
    NotebookProgress,
    OfficialEvaluation,
    PanelPictures,
    PlainProgress,
    PredictionFiles,
    ResumeCheck,
    ScoreTables,
    StopOnSignal,
    TerminalProgress,
    Throughput,
)
from hrseg.callbacks.loggers import Events, made_loggers
from hrseg.data import SegmentationDataModule
from hrseg.inference import Checkpoint
from hrseg.inference.backend import runs_on
from hrseg.inference.certainty import CertaintyOptions
from hrseg.run import launch, slurm
from hrseg.run.changes import going_on
from hrseg.run.config import ConfigFile
from hrseg.run.folders import is_of_run, run_dir_of
from hrseg.run.messages import description
from hrseg.run.options import DEFAULTS
from hrseg.task import SegmentationTask
from hrseg.utils.checks import as_list

_NO_CERTAINTY = CertaintyOptions()


def make_trainer(
    verb: str,
    folder: Path,
    task: SegmentationTask,
    data: LightningDataModule,
    options: Mapping[str, Any],
    *,
    checkpoint: Checkpoint | None = None,
    settings: Mapping[str, Any] | None = None,
    comments: Sequence[str] | None = (),
    callbacks: Sequence[Callback] = (),
    output: Path | None = None,
    certainty: CertaintyOptions = _NO_CERTAINTY,
    timeout_minutes: float | None = None,
) -> Trainer:
    """Builds the trainer of a run, with its loggers, callbacks and plugins, and prints a line on the run.

    Args:
        verb: "fit", "validate", "test", "predict" or "calibrate", which validates without a table of scores.
        folder: The run's folder.
        task: What is trained or scored.
        data: The data.
        options: Options of Lightning's `Trainer`, with `logger` as for `hrseg.fit`.
        checkpoint: What a training resumes from, or what is scored; Lightning gets its content without a second read.
        settings: Content of a training's `config.yaml`.
        comments: Comment lines at its top; None writes no file.
        callbacks: The user's callbacks; one of a class that every run has replaces the run's own.
        output: Where `predict` writes; FOLDER/predict by default.
        certainty: What `predict` writes beside labels and overlays.
        timeout_minutes: How long ranks wait for one that does not answer; None is Lightning's default.

    Raises:
        TypeError: `Trainer` has no such option.
        ConfigError: A logger's settings do not fit.
    """
    options = {**DEFAULTS, **options}
    is_restart = checkpoint is not None and is_of_run(checkpoint.path, folder)
    has_loggers = verb == "fit" and options.get("logger") is not False
    options["logger"] = has_loggers and _loggers(options.get("logger"), folder, checkpoint, is_restart)
    of_run: list[Callback] = [LabelWarnings(), ResumeCheck(checkpoint)]
    if verb != "calibrate":
        of_run.insert(0, ScoreTables(folder))
    if verb == "fit":
        of_run += _callbacks_of_training(ConfigFile(folder, settings or {}, is_restart, comments), options)
    elif verb == "test":
        of_run.append(ContactSheet(folder))
        if isinstance(data, SegmentationDataModule) and data.evaluator is not None:
            of_run.append(OfficialEvaluation(folder, data.evaluator, data.evaluate_files))
    elif verb == "predict":
        of_run.append(PredictionFiles(output or folder / "predict", certainty))
    if options.get("enable_progress_bar") is not False:
        of_run.append(progress_bar())
    options["callbacks"] = _replaced(of_run, callbacks)
    options["plugins"] = plugins(options.get("plugins"), checkpoint)
    trainer = Trainer(default_root_dir=folder, **options)
    if timeout_minutes is not None and isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._timeout = timedelta(minutes=timeout_minutes)
    if trainer.is_global_zero:
        if verb == "fit" and checkpoint is not None:
            home = folder if is_restart else run_dir_of(checkpoint.path) or folder
            print(going_on(checkpoint.path, home / "config.yaml", settings or {}), flush=True)
        about = description(task, starts=verb == "fit" and checkpoint is None)
        kind = trainer.strategy.root_device.type
        backend = runs_on(task.network, kind, str(trainer.precision))
        print(f"{verb}: {about}; {backend}, {trainer.num_devices} x {kind}; files in {folder}", flush=True)
    return trainer


def _loggers(given: Any, folder: Path, checkpoint: Checkpoint | None, is_restart: bool) -> list[Logger]:
    """TensorBoard, `metrics.csv` and the user's; a restart overwrites rows from its first step on."""
    step = 0 if checkpoint is None else checkpoint.content["global_step"] if is_restart else None
    of_run = [Events(folder, name="", version="", purge_step=step), MetricsCsv(folder / "metrics.csv", step)]
    # only on rank 0: the others do not log, and servers and databases should see one process
    of_user = made_loggers(given, folder) if given not in (None, True) and launch.is_first_process() else []
    return [*of_run, *of_user]


def _callbacks_of_training(config: ConfigFile, options: Mapping[str, Any]) -> Iterator[Callback]:
    """The callbacks of every training beside score tables and progress bar."""
    is_trial = bool(options.get("fast_dev_run"))
    yield Timer(options.get("max_time"))
    yield Throughput()
    yield PanelPictures()
    yield FiniteLoss()
    if options.get("logger") is not False:
        yield LearningRateMonitor(logging_interval="step")
    if not is_trial:
        yield config
    if is_trial or options.get("enable_checkpointing") is False:
        yield StopOnSignal()
    else:
        place = config.folder / "checkpoints"
        yield ModelCheckpoint(place, "best", monitor="val/miou", mode="max", enable_version_counter=False)
        yield LastCheckpoint()


def progress_bar() -> ProgressBar:
    """The progress bar for the output: a notebook, a terminal or a file."""
    if Console().is_jupyter:
        return NotebookProgress()
    return TerminalProgress() if sys.stdout is not None and sys.stdout.isatty() else PlainProgress()


def _replaced(of_run: Sequence[Callback], of_user: Sequence[Callback]) -> list[Callback]:
    """The user's callbacks, and the run's own of classes that the user did not give; one progress bar at most."""
    callbacks = {callback.state_key: callback for callback in of_user}
    has_bar = any(isinstance(callback, ProgressBar) for callback in of_user)
    for callback in of_run:
        if not (has_bar and isinstance(callback, ProgressBar)):
            callbacks.setdefault(callback.state_key, callback)
    return list(callbacks.values())


def plugins(of_user: Any, checkpoint: Checkpoint | None = None) -> list[Any]:
    """The user's plugins, one or a list, and the run's own."""
    given = as_list(of_user)
    is_settled = launch.tasks() is not None or any(isinstance(plugin, ClusterEnvironment) for plugin in given)
    if slurm.job() is not None and not is_settled:
        # Lightning assumes that srun started every process of a job, and would wait for the others
        given = [LightningEnvironment(), *given]
    return [*given, AtomicCheckpointIO(checkpoint)]
