"""The `config.yaml` of a run, also for a training started from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer

from hrseg.callbacks.loggers import start_loggers
from hrseg.models import Network
from hrseg.run.changes import keep_before
from hrseg.task import SegmentationTask
from hrseg.utils.construct import NotDescribableError, arguments_of, class_path, describe, described_arguments
from hrseg.utils.files import replacing

_LINKED = ("labels", "crop_size", "input_size")  # linked from the data by the command
_OF_NAMED_NETWORKS = ("network_args", "weights", "reinit_head", "checkpoint_stages")
_OF_TRAINING = ("model.optimizer", "model.schedule", "data.transforms", "trainer.")  # not needed for scoring


class ConfigFile(Callback):
    """Writes `config.yaml`, which repeats a run, when the training starts, and sends the settings to the loggers.

    A restart with other settings keeps the previous file as `config_until_step_N.yaml`.

    Args:
        folder: The run's folder.
        settings: Plain values for the file.
        is_restart: Whether a run of this folder, which the loggers know, is resumed.
        comments: Comment lines at the top of the file; None writes no file.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], is_restart: bool, comments: Sequence[str] | None = ()
    ) -> None:
        self.folder = folder
        self._settings = dict(settings)
        self._is_restart = is_restart
        self._comments = comments

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts the loggers; the file is written later, as the training may not start."""
        if stage == "fit" and trainer.is_global_zero:
            start_loggers(trainer, self.folder, self._settings, self._is_restart)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file on rank 0."""
        if not trainer.is_global_zero or self._comments is None:
            return
        seed = getattr(pl_module, "seed", None)
        if seed is not None and seed < 2**32:
            self._settings["seed_everything"] = seed  # a restart keeps its checkpoint's, whatever was given
        path = self.folder / "config.yaml"
        keep_before(path, self._settings, trainer.global_step)
        text = "".join(f"# {comment}\n" for comment in self._comments)
        text += yaml.safe_dump(self._settings, sort_keys=False, allow_unicode=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def comments_of(task: SegmentationTask, lacks: Mapping[str, str]) -> list[str] | None:
    """Comments for a `ConfigFile` on settings that it lacks; None if they are needed for scoring."""
    if not _is_whole(lacks):
        return None
    comments = [f"without {name}: {reason}" for name, reason in lacks.items()]
    if not isinstance(arguments_of(task).get("network"), str):
        comments.append("without the weights that the network had, which was given as a module")
    return comments


def complaint(lacks: Mapping[str, str]) -> str:
    """A line on what `config.yaml` lacks, and on the consequence."""
    listed = ", ".join(f"{name} ({reason})" for name, reason in lacks.items())
    if _is_whole(lacks):
        return f"config.yaml lacks {listed}, and so will a training repeated from it"
    return f"no config.yaml, as it cannot describe {listed}: hrseg validate, test and predict need a --config"


def _is_whole(lacks: Mapping[str, str]) -> bool:
    return all(name.startswith(_OF_TRAINING) for name in lacks)


def run_settings(
    task: SegmentationTask, data: LightningDataModule, experiment: str, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the settings of a training started from Python in the form of a recipe.

    Args:
        task: The task.
        data: The data module.
        experiment: Name of the folder under runs/.
        options: The user's options of Lightning's `Trainer`.

    Returns:
        Plain values; and names of settings that plain values cannot describe, with the reasons.
    """
    lacks: dict[str, str] = {}

    def take(part: str, found: tuple[dict[str, Any], dict[str, str]]) -> dict[str, Any]:
        lacks.update({f"{part}.{name}": reason for name, reason in found[1].items()})
        return found[0]

    settings: dict[str, Any] = {"experiment": experiment}
    if "PL_GLOBAL_SEED" in os.environ:  # set by Lightning's seed_everything
        settings["seed_everything"] = int(os.environ["PL_GLOBAL_SEED"])
    try:
        model = take("model", described_arguments(task, skip=(*_LINKED, "network", *_OF_NAMED_NETWORKS)))
        model = take("model", _described_network(task)) | model
        if task.crop_size != getattr(data, "crop_size", task.crop_size):  # its windows differ from the data's crops
            model |= {name: describe(asdict(getattr(task, name))) for name in ("val_protocol", "test_protocol")}
        is_ours = type(task) is SegmentationTask
        settings["model"] = model if is_ours else {"class_path": class_path(type(task)), "init_args": model}
    except NotDescribableError as error:
        lacks["model"] = str(error)
    try:
        init_args = take("data", described_arguments(data))
        settings["data"] = {"class_path": class_path(type(data)), "init_args": init_args}
    except NotDescribableError as error:
        lacks["data"] = str(error)
    settings["trainer"] = {}
    defaults = {name: parameter.default for name, parameter in signature(Trainer.__init__).parameters.items()}
    for name, value in {**dict(list(defaults.items())[1:]), **options}.items():
        try:
            settings["trainer"][name] = describe(value)
        except NotDescribableError as error:
            lacks[f"trainer.{name}"] = str(error)
    return settings, lacks


def _described_network(task: SegmentationTask) -> tuple[dict[str, Any], dict[str, str]]:
    network = arguments_of(task).get("network")
    if isinstance(network, Network) and network.config:
        of_name = {name: value for name, value in network.config.items() if name not in ("name", "num_classes")}
        return {"network": network.config["name"], "network_args": of_name, "weights": None, "reinit_head": False}, {}
    every = [name for name in arguments_of(task) if name not in ("network", *_OF_NAMED_NETWORKS)]
    return described_arguments(task, skip=every)
