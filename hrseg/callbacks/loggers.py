"""Loggers of a run: TensorBoard, and Weights & Biases, MLflow and others in the run's folder, across restarts."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from hrseg.errors import ConfigError
from hrseg.utils.checks import as_list
from hrseg.utils.files import write_json
from hrseg.utils.text_files import read_json

_IDENTIFIERS = "loggers.json"
_ID_PARAMETERS = ("id", "run_id", "experiment_key")  # WandbLogger, MLFlowLogger, CometLogger


class Events(TensorBoardLogger):
    """TensorBoard's event file, which also holds the hyper-parameters as text instead of in a separate file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hook = threading.excepthook
        threading.excepthook = self._leave_to_main_thread

    @rank_zero_only
    def save(self) -> None:
        """Flushes logged values, as the process may be killed; Lightning calls this after each row."""
        self.experiment.flush()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Adds them as YAML."""
        lines = yaml.safe_dump(params, sort_keys=False).splitlines()
        self.experiment.add_text("config", "\n".join(f"    {line}" for line in lines))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Closes the file."""
        threading.excepthook = self._hook
        super().finalize(status)

    def _leave_to_main_thread(self, args: threading.ExceptHookArgs) -> None:
        """Suppresses a disk error in TensorBoard's thread: the next call raises it again."""
        if isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard."):
            args.exc_value.filename = self.save_dir  # missing in TensorBoard's error
        else:
            self._hook(args)


def start_loggers(trainer: Trainer, folder: Path, hyperparameters: Mapping[str, Any], is_restart: bool) -> None:
    """Starts the loggers of a training on rank 0, and sends them its hyper-parameters.

    `loggers.json` in the run's folder keeps the loggers' run ids for a restart.

    Args:
        trainer: Has the loggers.
        folder: The run's folder.
        hyperparameters: Plain numbers, strings, lists and dicts.
        is_restart: Whether the run was restarted; a logger gets hyper-parameters only once.

    Raises:
        ConfigError: A logger cannot start.
    """
    known = _identifiers(folder / _IDENTIFIERS)
    kept = dict(known)
    for key, logger in zip(_keys([type(logger) for logger in trainer.loggers]), trainer.loggers, strict=True):
        has_id = _id_parameter(type(logger)) is not None
        try:
            if key not in known if has_id else not is_restart:
                logger.log_hyperparams(dict(hyperparameters))
            if has_id:
                kept[key] = str(logger.version)
        except Exception as error:  # every logger raises its own types
            raise _refusal(type(logger), error) from error
    if kept != known:
        write_json(folder / _IDENTIFIERS, kept)


def made_loggers(given: Any, folder: Path) -> list[Logger]:
    """Builds the user's loggers for a run; they write into its folder and continue after a restart.

    Args:
        given: One or several loggers, which stay unchanged, or classes and partials of them.
        folder: The run's folder.

    Raises:
        ConfigError: The library of a logger is not installed.
    """
    given = as_list(given)
    makers = [type(one) if isinstance(one, Logger) else getattr(one, "func", one) for one in given]
    known = _identifiers(folder / _IDENTIFIERS)
    loggers = []
    for key, maker, one in zip(_keys(makers), makers, given, strict=True):
        try:
            added = _settings(maker, getattr(one, "keywords", {}), folder, known.get(key))
            loggers.append(one if isinstance(one, Logger) else one(**added))
        except ImportError as error:  # its library
            raise _refusal(maker, error) from error
    return loggers


def _refusal(maker: Any, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfigError(f"{getattr(maker, '__name__', maker)} cannot start: {reason}; see trainer.logger")


def _settings(
    maker: Callable[..., Any], given: Mapping[str, Any], folder: Path, identifier: str | None
) -> dict[str, Any]:
    """Constructor arguments: the run's folder and, to continue a run, the logger's own id."""
    parameters = inspect.signature(maker).parameters
    settings: dict[str, Any] = {"save_dir": str(folder)}
    if "tracking_uri" in parameters:
        # MLflow no longer keeps runs in plain files; a server has its own storage
        server = given.get("tracking_uri", parameters["tracking_uri"].default)
        place = str(folder.absolute() / "mlflow")
        settings = {} if server else {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "artifact_location": place}
    if identifier is not None and (name := _id_parameter(maker)):
        settings[name] = identifier
    settings = {
        name: value
        for name, value in settings.items()
        if name in parameters and given.get(name, parameters[name].default) == parameters[name].default
    }
    if given.get("resume", "") is None:  # from the command line; it would override WandbLogger's own "allow"
        settings["resume"] = "allow"
    return settings


def finish_loggers(trainer: Trainer, given: Any) -> None:
    """Ends runs of Weights & Biases that `made_loggers` started; the next one in this process would join them."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and not any(logger is other for other in as_list(given)):
            logger.experiment.finish()


def log_picture(trainer: Trainer, name: str, picture: np.ndarray) -> None:
    """Sends an image (H, W, 3) uint8 RGB to all loggers that take images."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, picture, key=name, step=step)
        elif hasattr(logger, "log_image"):  # such as WandbLogger
            logger.log_image(name, [picture], step=step)


def _id_parameter(maker: Callable[..., Any]) -> str | None:
    return next((name for name in _ID_PARAMETERS if name in inspect.signature(maker).parameters), None)


def _keys(makers: Sequence[Any]) -> list[str]:
    """Keys of the loggers in `loggers.json`; several of one class are numbered."""
    names = [getattr(maker, "__name__", type(maker).__name__) for maker in makers]
    return [f"{name} {n}" if (n := names[:index].count(name)) else name for index, name in enumerate(names)]


def _identifiers(path: Path) -> dict[str, str]:
    return {key: value for key, value in read_json(path).items() if isinstance(value, str)}
