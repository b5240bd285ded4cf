"""`hrseg.fit`: a training as the command runs it, from Python; and what both give a run."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar
from pytorch_lightning.loggers import Logger
from rich.console import Console

from hrseg.callbacks import (
    AtomicCheckpointIO,
    FiniteLoss,
    LabelWarnings,
    LastCheckpoint,
    MetricsCsv,
    NotebookProgress,
    PanelPictures,
    PlainProgress,
    ResumeCheck,
    ScoreTables,
    StopOnSignal,
    TerminalProgress,
    Throughput,
)
from hrseg.callbacks.loggers import Events, finish_loggers, made_loggers
from hrseg.errors import ConfigError, WeightsError
from hrseg.inference import read_checkpoint
from hrseg.models.networks.base import Network
from hrseg.run import launch, slurm
from hrseg.run.changes import going_on
from hrseg.run.config import ConfigFile, comments_of, complaint, run_settings
from hrseg.run.folders import in_use, last_checkpoint, new_run_dir
from hrseg.task import SegmentationTask
from hrseg.utils import signals
from hrseg.utils.checks import as_list
from hrseg.utils.parallel import usable_cores
from hrseg.utils.paths import expanded
from hrseg.utils.signals import Interrupted

DEFAULTS = {
    "num_sanity_val_steps": 1,
    "log_every_n_steps": 10,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # the data module has samplers of its own
}

# what Lightning says that no user can act on
_ADVICE = (
    # that there is srun; a job in which it was left out is refused
    r".*`srun` command is available",
    # its own use of torch's private module for trees
    r".*LeafSpec.* is deprecated",
    # short trainings and small data sets are fine
    r".*smaller than the logging interval",
    # a folder is used again on purpose, and scoring needs no callback of the training
    r".*exists and is not empty",
    r".*callbacks used to create the checkpoint need to be provided",
    r".*loading a checkpoint outside the 'fit' stage",
    # the scores are computed from counts that were summed over the processes
    r".*It is recommended to use `self.log\('val/",
    r".*It is recommended to use `self.log\('test/",
    # a task that scores in its own way has no counts
    r".*was called before the ``update`` method",
    # a training without a validation has no best checkpoint; a task with other scores than ours hears of it
    r".*monitor='val/miou'\)` could not find the monitored key in the returned metrics: \[(?![^]]*'val/)",
    # the loaders choose their number of workers themselves
    r".*does not have many workers",
)


def fit(
    task: SegmentationTask,
    data: LightningDataModule,
    *,
    experiment: str = "default",
    run_dir: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Trainer:
    """Trains, with the files, checkpoints, scores and progress of `hrseg fit`; in a notebook on one device.

    If it is interrupted, it saves its state after the step that is under way, and raises the `KeyboardInterrupt` then.

    Args:
        task: What to train.
        data: What to train on; also a data module of one's own, with batches as `SegmentationTask` reads them, or as a
            class derived from it does.
        experiment: Name of the folder under runs/.
        run_dir: The run's folder; runs/EXPERIMENT/N with the next free N by default. A training in a folder that holds
            checkpoints/last.ckpt goes on from it.
        callbacks: Further ones. One of a kind that every run has takes its place.
        options: Of Lightning's `Trainer`, such as `max_epochs`. A `logger` is added to those of the run, False is none.
            Given as a class or a partial of one, `partial(WandbLogger, project="streets")`, it writes into the run's
            folder and goes on after a restart.

    Returns:
        The trainer. Its `default_root_dir` is the run's folder, and `checkpoint_callback.best_model_path` the best
        checkpoint by val/miou.

    Raises:
        ConfigError: Task or data are none, or they do not belong together; or srun or torchrun started other
            numbers of processes. Or another training is at work in the folder.
        OutputError: The folder cannot be written to.
        WeightsError: Its last.ckpt is damaged.

    >>> trainer = fit(task, data, max_epochs=10)  # doctest: +SKIP
    >>> predictor = Predictor.from_checkpoint(trainer.checkpoint_callback.best_model_path)  # doctest: +SKIP
    """
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
    launch.require_srun()
    asked = {**DEFAULTS, **options, **({"callbacks": list(callbacks)} if callbacks else {})}
    options |= launch.processes(options)
    folder = shared_run_dir(experiment) if run_dir is None else expanded(run_dir)
    try:
        with in_use(folder, is_training=True), quiet():
            checkpoint, state = last_state(folder)
            settings, lacks = run_settings(task, data, experiment, asked)
            config = ConfigFile(folder, settings, checkpoint is not None, comments_of(task, lacks))
            trainer = _trainer(folder, checkpoint, state.get("global_step", 0), callbacks, config, options)
            if trainer.is_global_zero:
                if checkpoint is not None:
                    print(going_on(checkpoint, folder / "config.yaml", settings), flush=True)
                devices = f"{trainer.num_devices} x {trainer.strategy.root_device.type}"
                about = description(task, starts=checkpoint is None)
                print(f"fit: {about}; {devices}; files in {folder}", flush=True)
                if lacks:
                    print(complaint(lacks), flush=True)
            try:
                with signals.watching():
                    trainer.fit(task, datamodule=data, ckpt_path=checkpoint)
            finally:
                finish_loggers(trainer, options.get("logger"))
    except BaseException as error:
        if isinstance(error, Interrupted):
            signal.raise_signal(error.signal)  # in a notebook Ctrl-C ends the cell, in a script the script
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None  # Ctrl-C twice: Lightning would end the notebook
        raise
    return trainer


def last_state(run_dir: Path) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint that a training in a folder goes on from, if any, and what it holds, but for tensors' values.

    Raises:
        WeightsError: It is damaged.
    """
    if (checkpoint := last_checkpoint(run_dir)) is None:
        return None, {}
    try:
        return checkpoint, read_checkpoint(checkpoint)
    except WeightsError as error:
        raise WeightsError(f"{error}. Otherwise give another --run_dir to start anew") from error


def shared_run_dir(experiment: str) -> Path:
    """The next free folder runs/EXPERIMENT/N, the same in all processes of a training."""
    # the other processes of a training on one machine are started by the first, and find its choice here
    if int(os.environ.get("LOCAL_RANK", "0")) > 0 and "HRSEG_RUN_DIR" in os.environ:
        return Path(os.environ["HRSEG_RUN_DIR"])
    folder = new_run_dir(Path("runs"), experiment)
    os.environ["HRSEG_RUN_DIR"] = str(folder)
    return folder


def _trainer(
    folder: Path,
    checkpoint: Path | None,
    step: int,
    callbacks: Sequence[Callback],
    config: ConfigFile,
    options: dict[str, Any],
) -> Trainer:
    check_options(options)
    options = {**DEFAULTS, **options}
    if options.get("logger") is not False:
        # the others do not log, and their servers and databases see one process only
        is_given = options.get("logger") not in (None, True) and launch.is_first_process()
        of_user = made_loggers(options["logger"], folder) if is_given else []
        options["logger"] = [*loggers_of_run(folder, step), *of_user]
    of_run = [
        ScoreTables(folder),
        LabelWarnings(),
        *callbacks_of_training(folder, checkpoint, config, options),
    ]
    if options.get("enable_progress_bar") is not False:
        of_run.append(progress_bar())
    options["callbacks"] = replaced(of_run, callbacks)
    options["plugins"] = plugins_of_run(options.get("plugins"))
    return Trainer(default_root_dir=folder, **options)


# of Lightning's `Trainer`, what it takes without a look -> the least
_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "num_sanity_val_steps": -1,
    "gradient_clip_val": 0,
}
_MOST_ON_CPU = 64  # processes, where there are no more cores
# which say where the other nodes of a training are; srun and torchrun are known by themselves
_OF_SEVERAL_NODES = ("MASTER_ADDR", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def check_options(options: Mapping[str, Any]) -> None:
    """Looks at settings of Lightning's `Trainer` that fail late there, or wait for what does not come.

    Raises:
        ConfigError: One is out of range.
    """
    for name, least in _LEAST.items():
        if isinstance(value := options.get(name), int | float) and not value >= least:
            raise ConfigError(f"trainer.{name} is {value}; expected {least} or more")
    if options.get("val_check_interval") == 0:
        raise ConfigError("trainer.val_check_interval is 0; expected steps from 1, or a share of an epoch above 0")
    if options.get("barebones"):
        raise ConfigError("trainer.barebones leaves out loggers, checkpoints and progress, which a run has; leave it")
    devices, most = options.get("devices"), max(_MOST_ON_CPU, usable_cores())
    is_cpu = options.get("accelerator") == "cpu" or not torch.cuda.is_available()
    if is_cpu and str(devices).isdecimal() and int(str(devices)[:20]) > most:
        raise ConfigError(f"trainer.devices is {devices}; expected 1 to {most} processes on this machine's CPU")
    nodes = options.get("num_nodes") or 1
    if nodes > 1 and launch.tasks() is None and not any(name in os.environ for name in _OF_SEVERAL_NODES):
        raise ConfigError(
            f"trainer.num_nodes is {nodes}, but nothing says where the others are; start with srun or torchrun, or set "
            "MASTER_ADDR, MASTER_PORT and NODE_RANK on each"
        )


def plugins_of_run(of_user: Any) -> list[Any]:
    """The user's plugins, one or a list, and those of a run."""
    plugins = as_list(of_user)
    is_settled = launch.tasks() is not None or any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if slurm.job() is not None and not is_settled:
        # Lightning takes any process of a job for one that srun started, and would wait for the others
        plugins = [LightningEnvironment(), *plugins]
    return [*plugins, AtomicCheckpointIO()]


def replaced(of_run: Sequence[Callback], of_user: Sequence[Callback]) -> list[Callback]:
    """The user's callbacks, and those of a run of which the user gave none of the kind; one progress bar at most."""
    callbacks = {callback.state_key: callback for callback in of_user}
    has_bar = any(isinstance(callback, ProgressBar) for callback in of_user)
    for callback in of_run:
        if not (has_bar and isinstance(callback, ProgressBar)):
            callbacks.setdefault(callback.state_key, callback)
    return list(callbacks.values())


def loggers_of_run(folder: Path, step: int | None) -> list[Logger]:
    """TensorBoard's event file and `metrics.csv`.

    Args:
        folder: The run's folder.
        step: From which on the training logs. What the folder holds of this step and of later ones is removed: a
            restart logs it again. None keeps all.
    """
    return [Events(folder, name="", version="", purge_step=step), MetricsCsv(folder / "metrics.csv", step)]


def callbacks_of_training(
    folder: Path, checkpoint: Path | None, config: ConfigFile, options: Mapping[str, Any]
) -> Iterator[Callback]:
    """What every training has beside the tables of its scores and its progress bar.

    Args:
        folder: The run's folder.
        checkpoint: What the training goes on from, if anything.
        config: Writes its settings. A `fast_dev_run` leaves neither these nor checkpoints: others would go on from it.
        options: Of Lightning's `Trainer`.
    """
    is_trial = bool(options.get("fast_dev_run"))
    yield ResumeCheck(checkpoint)
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
        place = folder / "checkpoints"
        yield ModelCheckpoint(place, "best", monitor="val/miou", mode="max", enable_version_counter=False)
        yield LastCheckpoint()


def progress_bar() -> ProgressBar:
    """A bar that suits the place: a notebook, a terminal, or a file."""
    if Console().is_jupyter:
        return NotebookProgress()
    return TerminalProgress() if sys.stdout is not None and sys.stdout.isatty() else PlainProgress()


def description(task: SegmentationTask, starts: bool = False) -> str:
    """The network, its size, and what it is trained on, for the first line of a run.

    Args:
        task: The task.
        starts: Whether a training begins, for which the network's first values count.
    """
    parameters = sum(parameter.numel() for parameter in task.network.parameters())
    name = getattr(task.network, "config", {}).get("name", type(task.network).__name__)
    start = f", {start_of(task.network)}" if starts and isinstance(task.network, Network) else ""
    return (
        f"{name} ({parameters / 1e6:.2f} M parameters{start}) on {task.labels.name}, {task.labels.num_classes} classes"
    )


def start_of(network: Network) -> str:
    """What the first values of a network are: weights of a file, or random ones."""
    if network.loaded_from is not None:
        return f"weights of {Path(network.loaded_from).name}"
    init = network.config.get("init")
    return f"no weights, init {init}" if init else "no weights"


@contextmanager
def quiet() -> Iterator[None]:
    """Leaves out what Lightning says in the block that no user can act on; its warnings and errors stay."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    loggers.append(logging.getLogger("pytorch_lightning.profilers"))  # whose report was asked for
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _ADVICE:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.INFO if logger is loggers[-1] else logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
