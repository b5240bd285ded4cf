"""The line that describes a run, and filters for Lightning's messages."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hrseg.inference.backend import network_name
from hrseg.inference.exported import ExportedNetwork
from hrseg.models import Network
from hrseg.task import SegmentationTask

# warnings of Lightning that ask for no action here
_ADVICE = (
    # srun is available: a job in which it was left out is refused
    r".*`srun` command is available",
    # Lightning's own use of torch's private pytree module
    r".*LeafSpec.* is deprecated",
    # short trainings and small data sets are fine
    r".*smaller than the logging interval",
    # a folder is reused on purpose, and scoring needs none of the training's callbacks
    r".*exists and is not empty",
    r".*callbacks used to create the checkpoint need to be provided",
    r".*loading a checkpoint outside the 'fit' stage",
    # scores are computed from counts that were summed over the ranks
    r".*It is recommended to use `self.log\('val/",
    r".*It is recommended to use `self.log\('test/",
    # a custom task may have other scores than our counts
    r".*was called before the ``update`` method",
    # a training without validation has no best checkpoint; a custom task with other scores gets the warning
    r".*monitor='val/miou'\)` could not find the monitored key in the returned metrics: \[(?![^]]*'val/)",
    # the dataloaders choose their number of workers themselves
    r".*does not have many workers",
)


def description(task: SegmentationTask, starts: bool = False) -> str:
    """Describes network, size and data in a line.

    Args:
        task: The task.
        starts: Whether a new training starts, so that the line also states the initial weights.
    """
    name, data = network_name(task.network), f"{task.labels.name}, {task.labels.num_classes} classes"
    if isinstance(task.network, ExportedNetwork):
        return f"{name} of {task.network.path} on {data}"
    parameters = sum(parameter.numel() for parameter in task.network.parameters())
    start = f", {_initialization(task.network)}" if starts and isinstance(task.network, Network) else ""
    return f"{name} ({parameters / 1e6:.2f} M parameters{start}) on {data}"


def _initialization(network: Network) -> str:
    if network.loaded_from is not None:
        return f"weights of {Path(network.loaded_from).name}"
    init = network.config.get("init")
    return f"no weights, init {init}" if init else "no weights"


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses Lightning's information and advice in the block; other warnings and errors stay."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    loggers.append(logging.getLogger("pytorch_lightning.profilers"))  # its report was asked for
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
