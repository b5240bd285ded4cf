"""`hrseg fit`, `validate`, `test`, `predict`: LightningCLI with our task, data modules and run folders."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace, get_loader
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, Timer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from hrseg import CityscapesDataModule
from hrseg.callbacks import (
    CityscapesEvaluation,
    ContactSheet,
    Faults,
    LabelWarnings,
    PredictionFiles,
    ResumeCheck,
    ScoreTables,
)
from hrseg.callbacks.loggers import settings_of_run
from hrseg.cli.arguments import experiment_of, names_a_task, value_of, with_stdin_read
from hrseg.cli.checkpoints import config_of_run, leave_weights_to, require_whole_network, usable_checkpoint
from hrseg.cli.config_errors import as_config_error
from hrseg.cli.output import say
from hrseg.data import SegmentationDataModule
from hrseg.errors import ConfigError
from hrseg.run import launch, slurm
from hrseg.run.changes import going_on
from hrseg.run.config import ConfigFile
from hrseg.run.fit import (
    DEFAULTS,
    callbacks_of_training,
    check_options,
    description,
    last_state,
    loggers_of_run,
    plugins_of_run,
    progress_bar,
    quiet,
    replaced,
    shared_run_dir,
)
from hrseg.run.folders import in_use, is_of_run, run_dir_of
from hrseg.task import SegmentationTask
from hrseg.utils import signals
from hrseg.utils.checks import as_list
from hrseg.utils.construct import record
from hrseg.utils.paths import expanded
from hrseg.utils.signals import Interrupted

_MINUTES_OF_A_YEAR = 365 * 24 * 60


def run(verb: str, arguments: Sequence[str]) -> int:
    """Parses, instantiates and runs one of Lightning's verbs."""
    _set_up_messages()
    try:
        with quiet(), signals.watching() if signals.is_watching() else nullcontext():
            HrsegCLI(verb, arguments)
    except Interrupted as stop:
        if verb != "fit":
            raise
        return _leave(stop)
    except SystemExit as stop:  # --help, or Lightning's answer to Ctrl-C
        return 130 if isinstance(stop.__context__, KeyboardInterrupt) else int(stop.code or 0)
    return 0


def _leave(stop: Interrupted) -> int:
    """Puts a SLURM job back into the queue, where its time runs out or it has to make room for another.

    Returns:
        The exit code: SLURM is to see a success, others, such as the script around a container, what stopped it.
    """
    if stop.signal.name not in ("SIGTERM", "SIGUSR1") or slurm.job() is None or not slurm.is_within_reach():
        return 128 + stop.signal
    if launch.is_first_process():
        print(slurm.requeue(), flush=True)
    return 0


def _set_up_messages() -> None:
    """Shows log messages, in rank 0 also those on loaded weights and on waiting for another process."""
    logging.basicConfig(format="%(message)s")
    if launch.is_first_process():
        for talkative in ("hrseg.models.weights.load", "hrseg.utils.locks"):
            logging.getLogger(talkative).setLevel(logging.INFO)
    # LightningCLI calls a method that jsonargparse 4.49 renamed: github.com/omni-us/jsonargparse, CHANGELOG
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


class HrsegCLI(LightningCLI):
    """LightningCLI for one verb, with the links, the folder and the callbacks of an hrseg run.

    Args:
        verb: fit, validate, test or predict.
        arguments: What follows the verb on the command line.
    """

    def __init__(self, verb: str, arguments: Sequence[str]) -> None:
        self._verb = verb
        self._checkpoint: Path | None = None
        self._faults = Faults()
        if not arguments:
            raise ConfigError(
                f"hrseg {verb} needs to know on what; give --config with one of the recipes in experiments/"
            )
        self._default_experiment = experiment_of(arguments)
        self._arguments = [*config_of_run(verb, arguments), *with_stdin_read(arguments)]
        self._with_task_class = names_a_task(self._arguments)
        try:
            with as_config_error(lambda: self._faults.has_started), ExitStack() as self._folder:
                super().__init__(
                    SegmentationTask,
                    SegmentationDataModule,
                    save_config_callback=None,
                    trainer_defaults=DEFAULTS,
                    seed_everything_default=304,
                    subclass_mode_model=self._with_task_class,
                    subclass_mode_data=True,
                    args=[verb, *self._arguments],
                    auto_configure_optimizers=False,
                    load_from_checkpoint_support=False,
                )
        except BaseException as error:
            if self._faults.explained is not None:
                raise self._faults.explained from error
            raise

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # the other verbs' parsers take seconds
        """The one verb."""
        return {self._verb: super().subcommands()[self._verb]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises its errors, so that they are printed in one line."""
        return super().init_parser(**{"prog": "hrseg", "exit_on_error": False, **kwargs})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run's folder, and links what the data determine."""
        parser.add_argument(
            "--experiment",
            type=str | None,
            default=None,
            help="Name of the folder under runs/; the recipe's by default.",
        )
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="The run's folder; runs/EXPERIMENT/N with the next free N by default. A training in a folder that "
            "holds checkpoints/last.ckpt goes on from it.",
        )
        parser.add_argument(
            "--timeout_minutes",
            type=float,
            default=30.0,
            help="How long processes wait for one that does not answer, before all of them end.",
        )
        if self._verb != "fit":
            parser.add_argument(
                "--trust",
                action="store_true",
                help="Build whatever the config.yaml beside the checkpoint names, which may run any code; otherwise "
                "only classes of known packages.",
            )
        model = "model.init_args" if self._with_task_class else "model"
        for fact in ("labels", "crop_size", "input_size"):
            parser.link_arguments(f"data.{fact}", f"{model}.{fact}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses `args`, whatever the process's own are, and reads the checkpoint before Lightning does."""
        self.config = parser.parse_args(args)
        config = self.config[self._verb]
        if config.get("ckpt_path") is not None:
            self._content = usable_checkpoint(self._verb, config.ckpt_path)
            self._checkpoint = expanded(config.ckpt_path)
            config.ckpt_path = str(self._checkpoint)

    def before_instantiate_classes(self) -> None:
        """Settles the folder and the checkpoint to go on from."""
        self.parser.add_instantiator(record, nn.Module)  # a checkpoint describes networks that are none of ours
        config = self.config[self._verb]
        if self._verb != "fit" and self._checkpoint is None:
            model = config.model.init_args if self._with_task_class else config.model
            require_whole_network(*(model.get(key) for key in ("network", "weights", "reinit_head")))
        config.experiment = config.experiment or self._default_experiment
        if not 0 < config.timeout_minutes < _MINUTES_OF_A_YEAR:
            raise ConfigError(
                f"timeout_minutes is {config.timeout_minutes}; expected more than 0, and less than a year"
            )
        if self._verb == "fit":
            launch.require_srun()
        given = {key: value_of(f"--trainer.{key}", self._arguments) for key in ("num_nodes", "devices")}
        self._processes = launch.processes(given)
        check_options(config.trainer.as_dict() | self._processes)
        self.run_dir = self._run_dir(config)
        self._folder.enter_context(in_use(self.run_dir, is_training=self._verb == "fit"))
        if self._verb == "fit" and self._checkpoint is None:
            self._checkpoint, self._content = last_state(self.run_dir)
            config.ckpt_path = self._checkpoint and str(self._checkpoint)
        self._is_restart = self._checkpoint is not None and is_of_run(self._checkpoint, self.run_dir)
        if self._verb == "fit":
            self._settings = self._settings_of_run(config)
        if self._checkpoint is not None:
            if self._verb == "fit":
                home = run_dir_of(self._checkpoint) or self.run_dir
                say(going_on(self._checkpoint, home / "config.yaml", self._settings))
            leave_weights_to(self._content, config.model)

    def _settings_of_run(self, config: Namespace) -> dict[str, Any]:
        """What `config.yaml` is to hold: all that repeats the run as a new one, weights it starts from included."""
        config = config.clone()
        del config["run_dir"], config["ckpt_path"]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"(?s).*does not round-trip")  # tuples become lists
            text = self._parser(self._verb).dump(config, skip_none=False)
        settings: dict[str, Any] = get_loader("yaml")(text)
        return settings

    def _run_dir(self, config: Namespace) -> Path:
        if config.run_dir:
            return expanded(config.run_dir)
        if self._verb != "fit" and self._checkpoint is not None and (home := run_dir_of(self._checkpoint)):
            return home
        return shared_run_dir(config.experiment)

    def instantiate_classes(self) -> None:
        """Builds all classes; the user's loggers for the run's folder, in the first process of a training alone."""
        trainer = self.config[self._verb].trainer
        logger = trainer.get("logger")
        logs = self._verb == "fit" and launch.is_first_process() and not isinstance(logger, bool)
        given = as_list(logger) if logs else []
        makers = [(resolve_name(entry.class_path), entry.get("init_args") or {}) for entry in given]
        completed = [entry.clone() for entry in given]
        for entry, settings in zip(completed, settings_of_run(makers, self.run_dir), strict=True):
            entry.init_args = entry.get("init_args") or Namespace()  # type: ignore[no-untyped-call]
            for name, value in settings.items():
                entry.init_args[name] = value
        trainer.logger = completed or (self._verb == "fit" and logger is not False)
        super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with the loggers, checkpoints and callbacks of a run."""
        config = self._get(self.config_init, "trainer")
        starts = self._verb == "fit" and self._checkpoint is None
        say(f"{self._verb}: {description(self.model, starts)}; files in {self.run_dir}")
        if config.get("logger") is not False:
            kwargs["logger"] = [*self._loggers(), *([] if config.logger is True else config.logger)]
        # one of a kind: an overlay's callback replaces the recipe's, and a user's replaces ours
        kwargs["callbacks"] = replaced(self._callbacks(config), as_list(config.get("callbacks")))
        kwargs["plugins"] = plugins_of_run(config.get("plugins"))
        kwargs["default_root_dir"] = self.run_dir
        kwargs |= self._processes
        trainer = super().instantiate_trainer(**kwargs)
        self.datamodule.timeout_minutes = self.config_init[self._verb].timeout_minutes
        if isinstance(trainer.strategy, DDPStrategy):
            trainer.strategy._timeout = timedelta(minutes=self.config_init[self._verb].timeout_minutes)
        return trainer

    def _loggers(self) -> list[Logger]:
        step = 0 if self._checkpoint is None else self._content["global_step"] if self._is_restart else None
        return loggers_of_run(self.run_dir, step)

    def _callbacks(self, config: Namespace) -> list[Callback]:
        callbacks: list[Callback] = [ScoreTables(self.run_dir), LabelWarnings(), self._faults]
        if config.get("enable_progress_bar") is not False:
            callbacks.append(progress_bar())
        if self._verb == "test":
            callbacks.append(ContactSheet(self.run_dir))
            if isinstance(self.datamodule, CityscapesDataModule):
                callbacks.append(CityscapesEvaluation(self.run_dir))
        if self._verb != "fit" and self._checkpoint is not None:
            callbacks.append(ResumeCheck(self._checkpoint))
        if self._verb == "predict":
            callbacks.append(PredictionFiles(self.run_dir / "predict"))
        if self._verb == "fit":
            file = ConfigFile(self.run_dir, self._settings, self._is_restart)
            of_training = callbacks_of_training(self.run_dir, self._checkpoint, file, vars(config))
            callbacks += [Timer(config.get("max_time")), *of_training]
        return callbacks

    def before_validate(self) -> None:
        """Leaves the table to `ScoreTables`."""
        self.config_init[self._verb]["verbose"] = False

    before_test = before_validate

    def before_predict(self) -> None:
        """Keeps the predictions out of memory: they go to files."""
        self.config_init[self._verb]["return_predictions"] = False

    def after_predict(self) -> None:
        """Says where the files are."""
        say(f"label ids: {self.run_dir / 'predict' / 'labels'}\noverlays: {self.run_dir / 'predict' / 'overlays'}")

    def after_fit(self) -> None:
        """Says how long it took, over all restarts, and where the files are."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        timer = next(callback for callback in callbacks if isinstance(callback, Timer))
        say(f"training took {timedelta(seconds=round(timer.time_elapsed()))}, validation included")
        best = self.run_dir / "checkpoints" / "best.ckpt"
        if best.is_file():
            say(f"best checkpoint: {best}")
        if any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
            say(f"TensorBoard: tensorboard --logdir {self.run_dir}")
