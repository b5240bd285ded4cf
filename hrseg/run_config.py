"""`config.yaml` of a training that was started from Python: what `hrseg fit --config` would be given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer

from hrseg.changes import going_on, keep_before
from hrseg.construct import NotDescribableError, arguments_of, class_path, describe, described_arguments
from hrseg.files import replacing
from hrseg.models import Network
from hrseg.task import SegmentationTask

_LINKED = ("labels", "crop_size", "input_size")  # the command takes them from the data
_OF_NAMED_NETWORKS = ("network_args", "weights", "reinit_head", "checkpoint_stages")
_OF_TRAINING = ("model.optimizer", "model.schedule", "data.transforms", "trainer.")  # what scores do without


class ConfigFile(Callback):
    """Writes `config.yaml` once a training has started, where task and data can be told by plain values.

    `settings` is what it holds.

    Args:
        folder: The run's folder.
        task: What is trained.
        data: What it is trained on.
        experiment: Name of the folder under runs/.
        options: Of the trainer, as the user gave them.
    """

    def __init__(
        self,
        folder: Path,
        task: SegmentationTask,
        data: LightningDataModule,
        experiment: str,
        options: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.settings, self._lacks = run_settings(task, data, options)
        self.settings["experiment"] = experiment
        self._of_module = not isinstance(arguments_of(task).get("network"), str)
        self._is_whole = all(name.startswith(_OF_TRAINING) for name in self._lacks)

    def complaint(self) -> str:
        """What `config.yaml` lacks, and what that means; empty if it lacks nothing."""
        if not self._lacks:
            return ""
        lacks = ", ".join(f"{name} ({reason})" for name, reason in self._lacks.items())
        if self._is_whole:
            return f"config.yaml cannot tell {lacks}: a training repeated from it goes without"
        return f"no config.yaml, as {lacks} cannot be told: hrseg validate, test and predict need a --config"

    def going_on(self, checkpoint: Path) -> str:
        """The line that a training begins with which goes on from a checkpoint."""
        return going_on(checkpoint, self.folder / "config.yaml", yaml.safe_load(yaml.safe_dump(self.settings)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, in one process."""
        if trainer.is_global_zero and self._is_whole:
            header = "".join(f"# without {name}: {reason}\n" for name, reason in self._lacks.items())
            if self._of_module:
                header += "# without the weights that the network had, which was given as a module\n"
            text = yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True)
            keep_before(self.folder / "config.yaml", yaml.safe_load(text), trainer.global_step)
            with replacing(self.folder / "config.yaml") as temporary:
                temporary.write_text(header + text, encoding="utf-8")


def run_settings(
    task: SegmentationTask, data: LightningDataModule, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings as in a recipe, and the names of those that cannot be told, with the reasons."""
    lacks: dict[str, str] = {}

    def take(part: str, found: tuple[dict[str, Any], dict[str, str]]) -> dict[str, Any]:
        lacks.update({f"{part}.{name}": reason for name, reason in found[1].items()})
        return found[0]

    settings: dict[str, Any] = {}
    if "PL_GLOBAL_SEED" in os.environ:  # of Lightning's seed_everything
        settings["seed_everything"] = int(os.environ["PL_GLOBAL_SEED"])
    try:
        model = take("model", described_arguments(task, skip=(*_LINKED, "network", *_OF_NAMED_NETWORKS)))
        model = take("model", _described_network(task)) | model
        if task.crop_size != getattr(data, "crop_size", task.crop_size):  # its windows are not those of the data
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
