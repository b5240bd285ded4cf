"""`hrseg fit`, `validate`, `test`, `predict`: LightningCLI with our task, data modules and run folders."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, Timer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from hrseg import interruption, launch, slurm
from hrseg.callbacks import (
    CityscapesEvaluation,
    ContactSheet,
    Faults,
    LabelWarnings,
    PredictionFiles,
    ResumeCheck,
    ScoreTables,
)
from hrseg.callbacks.loggers import settings_of_run, start_loggers
from hrseg.changes import going_on, keep_before
from hrseg.cli.config_errors import as_config_error
from hrseg.cli.found import found_config
from hrseg.cli.parsing import read_config
from hrseg.construct import record
from hrseg.data import CityscapesDataModule, SegmentationDataModule
from hrseg.errors import ConfigError, WeightsError
from hrseg.files import expanded, replacing
from hrseg.inference import check_checkpoint
from hrseg.interruption import Interrupted
from hrseg.models.checkpoints import ZOO
from hrseg.models.reading import read_content
from hrseg.models.weights_file import few, open_weights
from hrseg.runs import in_use, last_checkpoint, run_dir_of
from hrseg.task import SegmentationTask
from hrseg.training import (
    DEFAULTS,
    callbacks_of_training,
    check_options,
    description,
    loggers_of_run,
    plugins_of_run,
    progress_bar,
    quiet,
    replaced,
    shared_run_dir,
)

_MINUTES_OF_A_YEAR = 365 * 24 * 60


def run(verb: str, arguments: Sequence[str]) -> int:
    """Parses, instantiates and runs one of Lightning's verbs."""
    _set_up_messages()
    try:
        with quiet(), interruption.watching() if interruption.is_watching() else nullcontext():
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
    if stop.signal not in (signal.SIGTERM, signal.SIGUSR1) or slurm.job() is None or not slurm.is_within_reach():
        return 128 + stop.signal
    if launch.is_first_process():
        print(slurm.requeue(), flush=True)
    return 0


def _say(text: str) -> None:
    if launch.is_first_process():
        print(text, flush=True)


def _set_up_messages() -> None:
    """Lets what was loaded of a file of weights, and a wait for another process, be told, once."""
    logging.basicConfig(format="%(message)s")
    if launch.is_first_process():
        for talkative in ("hrseg.models.weights", "hrseg.files"):
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
        self._faults = Faults()
        if not arguments:
            raise ConfigError(
                f"hrseg {verb} needs to know on what; give --config with one of the recipes in experiments/"
            )
        self._default_experiment = _experiment_of(arguments)
        arguments = [*_config_beside_checkpoint(verb, arguments), *arguments]
        self._arguments = arguments
        self._with_task_class = _names_a_task(arguments)
        try:
            with as_config_error(lambda: self._faults.has_started), ExitStack() as self._folder:
                super().__init__(
                    SegmentationTask,
                    SegmentationDataModule,
                    save_config_callback=RunConfig,
                    trainer_defaults=DEFAULTS,
                    seed_everything_default=304,
                    subclass_mode_model=self._with_task_class,
                    subclass_mode_data=True,
                    args=[verb, *arguments],
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
        """Parses `args`, whatever the process's own are, and looks at the checkpoint before Lightning does."""
        self.config = parser.parse_args(args)
        config = self.config[self._verb]
        if config.get("ckpt_path") is not None:
            config.ckpt_path = _usable_checkpoint(self._verb, config.ckpt_path)

    def before_instantiate_classes(self) -> None:
        """Settles the folder and the checkpoint to go on from."""
        self.parser.add_instantiator(record, nn.Module)  # a checkpoint describes networks that are none of ours
        config = self.config[self._verb]
        checkpoint = config.get("ckpt_path")
        if self._verb != "fit" and checkpoint is None:
            model = config.model.init_args if self._with_task_class else config.model
            _require_whole_network(*(model.get(key) for key in ("network", "weights", "reinit_head")))
        config.experiment = config.experiment or self._default_experiment
        if not 0 < config.timeout_minutes < _MINUTES_OF_A_YEAR:
            raise ConfigError(
                f"timeout_minutes is {config.timeout_minutes}; expected more than 0, and less than a year"
            )
        if self._verb == "fit":
            launch.require_srun()
        given = {key: _value_of(f"--trainer.{key}", self._arguments) for key in ("num_nodes", "devices")}
        self._processes = launch.processes(given)
        check_options(config.trainer.as_dict() | self._processes)
        self.run_dir = self._run_dir(config)
        self._folder.enter_context(in_use(self.run_dir, is_training=self._verb == "fit"))
        if self._verb == "fit" and checkpoint is None and (last := last_checkpoint(self.run_dir)):
            try:
                config.ckpt_path = _usable_checkpoint(self._verb, str(last))
            except WeightsError as error:
                raise WeightsError(
                    f"{error}. Otherwise give --ckpt_path, or another --run_dir to start anew"
                ) from error
        self._checkpoint = Path(config.ckpt_path) if Path(config.ckpt_path or "").is_file() else None
        if self._verb == "fit" and self._checkpoint is not None:
            home = run_dir_of(self._checkpoint) or self.run_dir
            settings = _settings(self._parser(self._verb), config)
            _say(going_on(self._checkpoint, home / "config.yaml", settings))
        self._model_as_given = config.model.clone()
        if self._checkpoint is not None:
            _leave_weights_to(self._checkpoint, config.model)

    def _run_dir(self, config: Namespace) -> Path:
        if config.run_dir:
            return Path(config.run_dir)
        if self._verb != "fit" and config.ckpt_path and (home := run_dir_of(Path(config.ckpt_path))):
            return home
        return shared_run_dir(config.experiment)

    def instantiate_classes(self) -> None:
        """Builds all classes; the user's loggers for the run's folder, in the first process of a training alone."""
        trainer = self.config[self._verb].trainer
        logger = trainer.get("logger")
        logs = self._verb == "fit" and launch.is_first_process() and not isinstance(logger, bool)
        given = _as_list(logger) if logs else []
        makers = [(resolve_name(entry.class_path), entry.get("init_args") or {}) for entry in given]
        completed = [entry.clone() for entry in given]
        for entry, settings in zip(completed, settings_of_run(makers, self.run_dir), strict=True):
            entry.init_args = entry.get("init_args") or Namespace()  # type: ignore[no-untyped-call]
            for name, value in settings.items():
                entry.init_args[name] = value
        # `config.yaml` keeps what was given
        trainer.logger = completed or (self._verb == "fit" and logger is not False)
        super().instantiate_classes()
        trainer.logger = logger

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with the loggers, checkpoints and callbacks of a run."""
        config = self._get(self.config_init, "trainer")
        starts = self._verb == "fit" and self.config[self._verb].get("ckpt_path") is None
        _say(f"{self._verb}: {description(self.model, starts)}; files in {self.run_dir}")
        if config.get("logger") is not False:
            kwargs["logger"] = [*self._loggers(), *([] if config.logger is True else config.logger)]
        # one of a kind: an overlay's callback replaces the recipe's, and a user's replaces ours
        kwargs["callbacks"] = replaced(self._callbacks(config), _as_list(config.get("callbacks")))
        kwargs["plugins"] = plugins_of_run(config.get("plugins"))
        kwargs["default_root_dir"] = self.run_dir
        kwargs |= self._processes
        self.save_config_kwargs = {"folder": self.run_dir, "model": self._model_as_given}
        trainer = super().instantiate_trainer(**kwargs)
        self.datamodule.timeout_minutes = self.config_init[self._verb].timeout_minutes
        if isinstance(trainer.strategy, DDPStrategy):
            trainer.strategy._timeout = timedelta(minutes=self.config_init[self._verb].timeout_minutes)
        return trainer

    def _loggers(self) -> list[Logger]:
        checkpoint = self.config[self._verb].get("ckpt_path")
        if not checkpoint:
            return loggers_of_run(self.run_dir, 0)
        is_restart = Path(checkpoint).absolute().parents[1] == self.run_dir.absolute()
        return loggers_of_run(
            self.run_dir, read_content(checkpoint, values=False)["global_step"] if is_restart else None
        )

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
            with_logger, with_checkpoints = (
                config.get(name) is not False for name in ("logger", "enable_checkpointing")
            )
            of_training = callbacks_of_training(self.run_dir, self._checkpoint, with_logger, with_checkpoints)
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
        _say(f"label ids: {self.run_dir / 'predict' / 'labels'}\noverlays: {self.run_dir / 'predict' / 'overlays'}")

    def after_fit(self) -> None:
        """Says how long it took, over all restarts, and where the files are."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        timer = next(callback for callback in callbacks if isinstance(callback, Timer))
        _say(f"training took {timedelta(seconds=round(timer.time_elapsed()))}, validation included")
        best = self.run_dir / "checkpoints" / "best.ckpt"
        if best.is_file():
            _say(f"best checkpoint: {best}")
        if any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
            _say(f"TensorBoard: tensorboard --logdir {self.run_dir}")


class RunConfig(SaveConfigCallback):
    """Writes `config.yaml`, from which the run can be repeated as a new one, when the training starts.

    A restart with other settings keeps the file before as `config_until_step_N.yaml`. The loggers get what it holds.

    Args:
        parser: The verb's parser.
        config: What it parsed.
        folder: The run's folder.
        model: The settings of the model, with the weights that a new run starts from.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, folder: Path, model: Namespace) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.folder = folder
        self.model = model

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts the loggers; leaves the file alone, as the training may not start."""
        if stage == "fit" and trainer.is_global_zero:
            is_restart = self.config.get("ckpt_path") is not None
            start_loggers(trainer, self.folder, _settings(self.parser, self.config), is_restart)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, in one process."""
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file."""
        config = self.config.clone()
        config.model = self.model
        seed = getattr(pl_module, "seed", None)
        if seed is not None and seed < 2**32:
            config.seed_everything = seed  # a restart keeps that of its checkpoint, whatever was given
        settings, path = _settings(self.parser, config), self.folder / "config.yaml"
        keep_before(path, settings, trainer.global_step)
        with replacing(path) as temporary:
            temporary.write_text(self.parser.dump(_of_the_run(config), skip_none=False))


def _of_the_run(config: Namespace) -> Namespace:
    config = config.clone()
    del config["run_dir"], config["ckpt_path"]
    return config


def _settings(parser: LightningArgumentParser, config: Namespace) -> dict[str, Any]:
    """What `config.yaml` would hold, as plain values."""
    settings: dict[str, Any] = get_loader("yaml")(parser.dump(_of_the_run(config), skip_none=False))
    return settings


def _config_beside_checkpoint(verb: str, arguments: Sequence[str]) -> list[str]:
    """`--config RUN/config.yaml` for a checkpoint of a run that is used; the user's settings stand on top."""
    if verb == "fit" or {"-h", "--help"} & set(arguments):
        return []
    checkpoint = _value_of("--ckpt_path", arguments)
    if checkpoint is None:
        # a recipe's own weights are what its training starts from; those to be scored are given by the user
        if all(_value_of(f"--model.{key}", arguments) is None for key in ("weights", "init_args.weights")):
            raise ConfigError(
                f"hrseg {verb} needs trained weights; {_CHECKPOINT}, or --config and --model.weights with a published "
                "file or its name in `hrseg weights list`"
            )
        return []
    home = run_dir_of(Path(_usable_checkpoint(verb, checkpoint)))
    if home is None:
        given = {argument.partition("=")[0].partition(".")[0] for argument in arguments}
        if not given & {"--config", "-c", "--data"}:
            raise ConfigError(
                f"no config.yaml of its run lies beside {checkpoint}; give --config with what it was trained on"
            )
        return []
    config, left_out = found_config(home / "config.yaml", "--trust" in arguments)
    if left_out:
        _say(f"left out of {home / 'config.yaml'}, as only --trust builds any class: {', '.join(left_out)}")
    return ["--config", config]


def _leave_weights_to(checkpoint: Path, model: Namespace) -> None:
    """Fetches and reads no weights that those of the checkpoint replace; what they told of the network stays."""
    model = model.get("init_args", model)
    network = model.get("network")
    if isinstance(network, Namespace) and network.get("init_args.encoder_weights"):  # of segmentation_models_pytorch
        network.init_args.encoder_weights = None
    if model.get("weights") is None:
        return
    own = read_content(checkpoint, values=False).get("hrseg")
    stored = own.get("network") if isinstance(own, Mapping) else None
    if isinstance(stored, Mapping) and stored.get("name") == network:
        told = {key: value for key, value in stored.items() if key not in ("name", "num_classes", "checkpoint_stages")}
        model.network_args = told | (model.get("network_args") or {})
    model.weights, model.reinit_head = None, False


_CHECKPOINT = "give --ckpt_path runs/NAME/N/checkpoints/best.ckpt"


def _usable_checkpoint(verb: str, checkpoint: str) -> str:
    """The checkpoint as Lightning takes it: a file whose content was looked at.

    Raises:
        ConfigError: There is no such file.
        WeightsError: It is damaged, or not Lightning's.
    """
    path = expanded(checkpoint)
    if not checkpoint or not path.exists():
        raise ConfigError(f"no checkpoint at {checkpoint or 'an empty name'}; {_CHECKPOINT}")
    content = read_content(path, values=False)
    needed = ("pytorch-lightning_version", "state_dict", *(("optimizer_states",) if verb == "fit" else ()))
    if missing := [name for name in needed if name not in content]:
        raise WeightsError(
            f"{path} is no checkpoint of a run to {verb}: it holds {few(map(str, content)) or 'nothing'}, and no "
            f"{missing[0]}; {_CHECKPOINT}, or use what it holds as --model.weights {path}"
        )
    check_checkpoint(content, path)
    return str(path)


def _require_whole_network(network: object, weights: str | None, reinit_head: bool | None) -> None:
    """Raises a `ConfigError` where a head would score at random: it starts anew, or weights are of a trunk alone."""
    if reinit_head:
        raise ConfigError(
            f"model.reinit_head leaves the head of {network} at random; give --model.reinit_head=false, or "
            f"{_CHECKPOINT.removeprefix('give ')}"
        )
    of_file = _of_weights(network, weights) if weights else {}
    if "name" not in of_file:
        raise ConfigError(
            f"model.weights is {weights or None}, which leaves the head of {network} at random; {_CHECKPOINT}"
        )
    if of_file["name"] != network:
        raise ConfigError(f"model.weights {weights} is of {of_file['name']}; give --model.network {of_file['name']}")


def _of_weights(network: object, weights: str) -> Mapping[str, object]:
    """What is known of weights, by their name before they are fetched; no "name" if they have no head of ours."""
    if weights in ZOO:
        return {} if ZOO[weights].tag.startswith("imagenet") else {"name": ZOO[weights].network}
    if expanded(weights).is_file():
        return open_weights(weights).description()
    return {} if weights.startswith("imagenet") else {"name": network}


def _names_a_task(arguments: Sequence[str]) -> bool:
    """Whether a class of the task is given, `--model CLASS` or `model: {class_path: CLASS}`, not its settings alone.

    A recipe's plain `model: {network: ...}` then holds for that class.
    """
    if any(argument.split("=")[0] in ("--model", "--model.class_path") for argument in arguments):
        return True
    for config in _configs(arguments):
        content = yaml.safe_load(config) if config.startswith("{") else read_config(config)
        model = content.get("model") if isinstance(content, dict) else None
        if isinstance(model, dict) and "class_path" in model:
            return True
    return False


def _configs(arguments: Sequence[str]) -> Iterator[str]:
    """Files of settings, or what would be in one; not those of stdin, which can be read once only."""
    for option, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, is_joined, value = option.partition("=")
        if name in ("--config", "-c") and (config := value if is_joined else following) != "-":
            yield config


def _experiment_of(arguments: Sequence[str]) -> str:
    """The name of the first config."""
    config = _value_of("--config", arguments) or _value_of("-c", arguments) or "default"
    return "stdin" if config == "-" else Path(config).stem


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == option:
            return arguments[index + 1] if index + 1 < len(arguments) else None
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
