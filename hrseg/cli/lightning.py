"""`hrseg fit`, `validate`, `test` and `predict`: LightningCLI with our task, data modules and run folders."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from jsonargparse import Namespace, get_loader
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from torch import nn

from hrseg.callbacks import Faults
from hrseg.cli.arguments import experiment_of, names_a_task, value_of, with_stdin_read
from hrseg.cli.checkpoint import drop_weights, open_checkpoint, require_head, require_loaded_head, require_weights
from hrseg.cli.config_errors import as_config_error
from hrseg.cli.exported import open_for, use_exported
from hrseg.cli.output import say
from hrseg.cli.predict_options import OPTIONS, TRAINER_PRECISIONS, TRUST, certainty_options, trainer_options
from hrseg.cli.run_config import config_of_run
from hrseg.data import SegmentationDataModule
from hrseg.errors import ConfigError
from hrseg.inference import Checkpoint
from hrseg.inference.exported import ExportedNetwork, is_exported
from hrseg.run import launch, slurm
from hrseg.run.folders import in_use, last_checkpoint, results_dir_of, shared_run_dir
from hrseg.run.messages import quiet
from hrseg.run.options import DEFAULTS, check_options
from hrseg.run.trainer import make_trainer
from hrseg.task import SegmentationTask
from hrseg.utils import signals
from hrseg.utils.checks import as_list
from hrseg.utils.construct import record
from hrseg.utils.paths import expanded
from hrseg.utils.signals import Interrupted

_MINUTES_OF_A_YEAR = 365 * 24 * 60
_OPTIONS: dict[str, dict[str, Any]] = {
    "--experiment": {"help": "Name of the folder under runs/; the recipe's by default."},
    "--run_dir": {
        "help": "The run's folder; runs/EXPERIMENT/N with the next free N by default. A training in a folder that "
        "holds checkpoints/last.ckpt resumes from it."
    },
}


def run(verb: str, arguments: Sequence[str], kind: type[HrsegCLI] | None = None) -> int:
    """Parses, instantiates and runs one of Lightning's verbs, or another verb made of it, of its own class."""
    _set_up_logging()
    try:
        with quiet(), signals.watching() if signals.is_watching() else nullcontext():
            (kind or HrsegCLI)(verb, arguments)
    except Interrupted as stop:
        if verb != "fit":
            raise
        return _exit_code(stop)
    except SystemExit as stop:  # --help, or Lightning's answer to Ctrl-C
        return 130 if isinstance(stop.__context__, KeyboardInterrupt) else int(stop.code or 0)
    return 0


def _exit_code(stop: Interrupted) -> int:
    """Requeues a SLURM job that runs out of time or is preempted.

    Returns:
        0 in a SLURM job, which counts as success; else 128 plus the signal, such as for a script around a container.
    """
    if stop.signal.name not in ("SIGTERM", "SIGUSR1") or slurm.job() is None or not slurm.has_scontrol():
        return 128 + stop.signal
    if launch.is_first_process():
        print(slurm.requeue(), flush=True)
    return 0


def _set_up_logging() -> None:
    """Shows log messages; on rank 0 also on loaded weights and on waiting for another process."""
    logging.basicConfig(format="%(message)s")
    if launch.is_first_process():
        for name in ("hrseg.models.weights.load", "hrseg.utils.locks"):
            logging.getLogger(name).setLevel(logging.INFO)
    # LightningCLI calls a method that jsonargparse 4.49 renamed: github.com/omni-us/jsonargparse, CHANGELOG
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def _make_data(kind: type[SegmentationDataModule], *args: Any, **given: Any) -> SegmentationDataModule:
    """Reports a missing folder before weights are downloaded."""
    data = kind(*args, **given)
    if kind.prepare_data is SegmentationDataModule.prepare_data:  # others may make the folder
        data.require_root()
    return data


class HrsegCLI(LightningCLI):
    """LightningCLI for one verb, with the links, the folder and the trainer of an hrseg run.

    Args:
        verb: fit, validate, test or predict.
        arguments: The arguments after the verb.
    """

    purpose: ClassVar[str | None] = None  # the user's verb, if it is another

    def __init__(self, verb: str, arguments: Sequence[str]) -> None:
        self._verb = verb
        self._callbacks: Sequence[Callback] = ()
        self._checkpoint: Checkpoint | None = None
        self._exported: ExportedNetwork | None = None
        self._faults = Faults()
        if not arguments:
            raise ConfigError(f"hrseg {verb} needs settings; give --config with one of the recipes in experiments/")
        self._default_experiment = experiment_of(arguments)
        self._arguments_given = arguments
        self._arguments = [*self._config_of_run(arguments), *with_stdin_read(arguments)]
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

    def _config_of_run(self, arguments: Sequence[str]) -> list[str]:
        """`--config` with the config.yaml beside the checkpoint that is scored; the user's settings override it."""
        if self._verb == "fit" or {"-h", "--help"} & set(arguments):
            return []
        if (path := value_of("--ckpt_path", arguments)) is None:
            require_weights(self._verb, arguments)
            return []
        self._open_checkpoint(path)
        return config_of_run(expanded(path), arguments)

    def _open_checkpoint(self, path: str) -> None:
        if is_exported(path):
            if self._exported is None or expanded(path) != self._exported.path:
                self._exported = open_for(self._verb, path, self._arguments_given)
        elif self._checkpoint is None or not path or expanded(path) != self._checkpoint.path:
            self._checkpoint = open_checkpoint(self._verb, path)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # the other verbs' parsers take seconds
        """The one verb."""
        return {self._verb: super().subcommands()[self._verb]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises its errors, which are then reported in one line."""
        return super().init_parser(**{"prog": "hrseg", "exit_on_error": False, **kwargs})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of a run, and links the task's arguments to the data."""
        for option, settings in (_OPTIONS | (OPTIONS if self._verb == "predict" else {})).items():
            parser.add_argument(option, default=None, **{**settings, "type": settings.get("type", str) | None})
        parser.add_argument(
            "--timeout_minutes",
            type=float,
            default=30.0,
            help="How long ranks wait for one that does not answer before they all end.",
        )
        if self._verb != "fit":
            parser.add_argument("--trust", action="store_true", help=TRUST)
        for fact in ("labels", "crop_size", "input_size"):
            parser.link_arguments(f"data.{fact}", f"{self._model}.{fact}", apply_on="instantiate")

    @property
    def _model(self) -> str:
        """The key of the task's arguments."""
        return "model.init_args" if self._with_task_class else "model"

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses `args` instead of the process's own, and reads the checkpoint before Lightning does."""
        self.config = parser.parse_args(args)
        config = self.config[self._verb]
        if config.get("ckpt_path") is not None:
            self._open_checkpoint(config.ckpt_path)
            # LightningCLI would read a checkpoint again for these
            if self._checkpoint is None or not self._checkpoint.content.get("hyper_parameters"):
                config.ckpt_path = None

    def before_instantiate_classes(self) -> None:
        """Checks the options, and determines the folder and the checkpoint to resume from."""
        self.parser.add_instantiator(record, nn.Module)  # so that checkpoints can describe networks of other packages
        # `make_trainer` builds the loggers in the run's folder
        self.parser.add_instantiator(lambda kind, *args, **given: partial(kind, *args, **given), Logger)
        config = self.config[self._verb]
        if self._exported is not None:
            use_exported(self._exported, config, self._model, self._arguments)
        elif self._verb != "fit" and self._checkpoint is None:
            require_head(*(config.get(f"{self._model}.{key}") for key in ("network", "weights", "reinit_head")))
        if not 0 < config.timeout_minutes < _MINUTES_OF_A_YEAR:
            raise ConfigError(
                f"timeout_minutes is {config.timeout_minutes}; expected more than 0, and less than a year"
            )
        if self._verb == "fit":
            launch.require_srun()
        if self._verb == "predict":
            self._apply_predict_options(config)
        given = {key: value_of(f"--trainer.{key}", self._arguments) for key in ("num_nodes", "devices")}
        self._processes = launch.processes(given)
        check_options(config.trainer.as_dict() | self._processes)
        config.experiment = config.experiment or self._default_experiment
        self.run_dir = self._run_dir(config)
        self._folder.enter_context(in_use(self.run_dir, is_training=self._verb == "fit"))
        if self._verb == "fit":
            self._checkpoint = self._checkpoint or last_checkpoint(self.run_dir)
            self._settings = self._settings_of_run(config)
        if self._checkpoint is not None:
            config.ckpt_path = str(self._checkpoint.path)
            drop_weights(self._checkpoint, config.model)
        weights = config.get(f"{self._model}.weights")
        if weights and not expanded(weights).is_file():
            self.parser.add_instantiator(_make_data, SegmentationDataModule)

    def _apply_predict_options(self, config: Namespace) -> None:
        if config.protocol is not None:
            config[f"{self._model}.test_protocol"] = config.protocol
        if config.device is not None and self._exported is None:
            for name, value in trainer_options(config.device).items():
                config.trainer[name] = value
        if config.precision is not None:
            if self._exported is not None and config.precision != "fp32":
                raise ConfigError(f"--precision is {config.precision}, but an exported file has its own; leave it out")
            config.trainer.precision = TRAINER_PRECISIONS[config.precision]

    def _settings_of_run(self, config: Namespace) -> dict[str, Any]:
        """Content of `config.yaml`: everything that repeats the run as a new one, initial weights included."""
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
        scored = self._exported or self._checkpoint
        if self._verb != "fit" and scored is not None and (folder := results_dir_of(scored.path)):
            return folder
        return shared_run_dir(config.experiment)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer of a run."""
        config = self.config_init[self._verb]
        options = {**config.trainer.as_dict(), **self._processes, **kwargs}
        del options["default_root_dir"]  # the run's folder
        if self._verb != "fit" and self._checkpoint is None and self._exported is None:
            require_loaded_head(self.model.network)
        self.datamodule.timeout_minutes = config.timeout_minutes
        return make_trainer(
            self.purpose or self._verb,
            self.run_dir,
            self.model,
            self.datamodule,
            options,
            checkpoint=self._checkpoint,
            settings=self._settings if self._verb == "fit" else None,
            callbacks=[*as_list(options.pop("callbacks")), *self._callbacks, self._faults],
            output=config.get("output") and expanded(config.output),
            certainty=certainty_options(config.get("confidence"), config.get("probabilities")),
            timeout_minutes=config.timeout_minutes,
        )

    def before_validate(self) -> None:
        """Leaves the table to `ScoreTables`."""
        self.config_init[self._verb]["verbose"] = False

    before_test = before_validate

    def before_predict(self) -> None:
        """Keeps predictions out of memory; they are written to files."""
        self.config_init[self._verb]["return_predictions"] = False

    def after_fit(self) -> None:
        """Prints the duration over all restarts, and where the files are."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        timer = next(callback for callback in callbacks if isinstance(callback, Timer))
        say(f"training took {timedelta(seconds=round(timer.time_elapsed()))}, validation included")
        best = self.run_dir / "checkpoints" / "best.ckpt"
        if best.is_file():
            say(f"best checkpoint: {best}")
        if any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
            say(f"TensorBoard: tensorboard --logdir {self.run_dir}")
