"""Checks of the inputs of `SegmentationTask`: networks, labels, losses, settings and batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, UnknownNameError
from hrseg.inference import Protocol, check_normalization
from hrseg.inference.exported import ExportedNetwork
from hrseg.losses import Criterion, ModuleLoss
from hrseg.models import MODELS, Network, Segmenter

_SETTLED = ("name", "num_classes", "weights", "from_file", "reinit_head")
_OF_LIBRARIES = ("hrseg.", "pytorch_lightning.", "lightning.")
_BATCH = {
    "image": "(B, 3, H, W) uint8 RGB",
    "target": "(B, H, W) uint8 train ids",
    "size": "the (height, width) of each image's file",
}


def checked_labels(labels: object) -> LabelTable:
    """Returns a label table as it is, and builds one from its dictionary in a checkpoint.

    Raises:
        ConfigError: It is neither of them.
    """
    if isinstance(labels, LabelTable):
        return labels
    if not isinstance(labels, Mapping):
        found = "" if labels is None else f", not {type(labels).__name__}"
        raise ConfigError(f"SegmentationTask needs the classes to train on{found}; give labels=data.labels")
    return LabelTable.from_dict(labels)


def check_network(network: object, labels: LabelTable) -> None:
    """Checks a network before its first forward pass.

    Raises:
        ConfigError: It is no module, no segmentation network, or has another number of classes.
    """
    if isinstance(network, type):
        raise ConfigError(f"the network is the class {network.__name__}; give an instance, {network.__name__}(...)")
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"the network is {str(network)[:60]!r} ({type(network).__name__}); expected a name, as `hrseg models` "
            "lists them, or a module that maps images (B, 3, H, W) to logits (B, K, H, W)"
        )
    if isinstance(network, Network) and not isinstance(network, Segmenter):
        raise ConfigError(
            f"{network.config.get('name', type(network).__name__)} is a {type(network).__name__} and gives no logits "
            "of pixels; `hrseg models` lists the segmentation networks"
        )
    if isinstance(network, Segmenter) and network.num_classes != labels.num_classes:
        raise ConfigError(
            f"a network of {network.num_classes} classes for the {labels.num_classes} of {labels.name}; "
            f"build it with num_classes={labels.num_classes}"
        )


def check_exported(
    network: ExportedNetwork,
    labels: LabelTable,
    mean: Sequence[float],
    std: Sequence[float],
    input_size: Sequence[int] | None,
) -> None:
    """Checks that an exported file gets the images it was made for, and that its classes are the data's.

    Raises:
        ConfigError: Something differs from the file's description.
    """
    stated = network.description
    if stated.labels.num_classes != labels.num_classes:
        raise ConfigError(
            f"{network.path} has {stated.labels.num_classes} classes, {labels.name} has {labels.num_classes}; give the "
            "data that it was trained on"
        )
    for name, given in {"mean": mean, "std": std}.items():
        expected = getattr(stated, name)
        if not np.allclose(given, expected, rtol=0, atol=1e-6):  # checkpoints hold single precision
            raise _contradiction(name, given, network, expected)
    if (None if input_size is None else tuple(input_size)) != stated.input_size:
        raise _contradiction("input_size", input_size, network, stated.input_size)


def _contradiction(name: str, given: object, network: ExportedNetwork, expected: object) -> ConfigError:
    return ConfigError(f"{name} is {given}, but {network.path} was exported with {expected}; give that")


def check_named_network(name: str, network_args: Mapping[str, object], labels: LabelTable) -> None:
    """Checks the name and the constructor arguments of a network before it is built.

    Raises:
        ConfigError: The name is the import path of a class, or the task itself determines one of the arguments.
    """
    if "." in name and "did you mean" not in str(UnknownNameError("model", name, MODELS)):
        raise ConfigError(
            f"unknown model {name!r}; `hrseg models` lists the names. Give a class of your own as "
            f"--model.network.class_path {name}, in Python as an instance"
        )
    if settled := [name for name in _SETTLED if name in network_args]:
        raise ConfigError(
            f"network_args holds {', '.join(settled)}, which the task's own arguments and the classes of "
            f"{labels.name} settle; leave {'it' if len(settled) == 1 else 'them'} out"
        )


def check_loss(loss: Criterion, labels: LabelTable) -> None:
    """Checks a loss before its first call.

    Raises:
        ConfigError: It has weights for another number of classes, or is a module that is no loss of logits.
    """
    if loss.num_classes not in (None, labels.num_classes):
        raise ConfigError(
            f"{loss.num_classes} class weights for the {labels.num_classes} classes of {labels.name}; give one weight "
            "per class, in train id order"
        )
    for module in loss.modules():
        if isinstance(module, ModuleLoss):
            module.probe(labels.num_classes)


def check_logits(outputs: Mapping[str, Tensor], images: Tensor, num_classes: int, network: nn.Module) -> None:
    """Checks the shapes of the logits.

    Raises:
        ConfigError: They are not (B, K, h, w) with one channel per class.
    """
    for name in ("out", "aux"):
        if name in outputs:
            found = tuple(outputs[name].shape)
            if len(found) != 4 or found[1] != num_classes or found[0] != images.shape[0]:
                raise ConfigError(
                    f"{type(network).__name__} gives {name!r} of shape {found}; expected logits "
                    f"({images.shape[0]}, {num_classes}, h, w), one channel for each of the {num_classes} classes"
                )


def require_batch(batch: Any, *names: str) -> None:
    """Raises a `ConfigError` if a batch, such as one of a user's data module, is not a dict with these keys."""
    if isinstance(batch, Mapping) and all(name in batch for name in names):
        return
    found = f"a dict with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    expected = " and ".join(f'"{name}", {_BATCH[name]}' for name in names)
    raise ConfigError(
        f"a batch is {found}; expected a dict with {expected}. Have the data module make such batches, or override the "
        "steps of SegmentationTask"
    )


def check_trainer(trainer: Trainer, labels: LabelTable) -> None:
    """Checks the trainer and its data.

    Raises:
        ConfigError: The precision is too low for weights, or the data have other classes.
    """
    if trainer.precision in ("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"):
        mixed = "16-mixed" if trainer.precision == "16-true" else "bf16-mixed"
        raise ConfigError(
            f"trainer.precision is {trainer.precision}, which rounds weights and the statistics of batch norm, so that "
            f"small steps are lost; give {mixed}"
        )
    of_data = getattr(getattr(trainer, "datamodule", None), "labels", None)
    if not isinstance(of_data, LabelTable):
        return
    if (of_data.class_names, of_data.ignore_index) != (labels.class_names, labels.ignore_index):
        raise ConfigError("the task's labels are not the data's; give SegmentationTask labels=data.labels")


def check_monitors(trainer: Trainer, logged: Collection[str]) -> None:
    """Checks what `EarlyStopping` monitors: Lightning would fail after the first epoch, whose weights are lost.

    Args:
        trainer: Has the callbacks. With one of the user's own nothing is checked, as it may log anything.
        logged: Names that the task logs in a training.

    Raises:
        UnknownNameError: It is not logged.
    """
    names = [*logged, "images/s", "data_wait", "peak_memory_gib"]
    if any(_is_of_user(callback) for callback in trainer.callbacks):  # type: ignore[attr-defined]  # set by a connector
        return
    for callback in trainer.early_stopping_callbacks:
        monitor = str(callback.monitor)
        if monitor not in names and not monitor.startswith("lr-"):
            raise UnknownNameError("monitor of EarlyStopping", monitor, names)


def _is_of_user(callback: object) -> bool:
    home = f"{type(callback).__module__}."
    return not home.startswith(_OF_LIBRARIES) or home.startswith("pytorch_lightning.callbacks.lambda_function.")


def check_clipping(trainer: Trainer, optimizer: Optimizer) -> None:
    """Checks that gradients can be clipped.

    Raises:
        ConfigError: They are clipped under 16-mixed, but the optimiser unscales them itself, as fused ones do.
    """
    is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    if trainer.gradient_clip_val and is_scaled and getattr(optimizer, "_step_supports_amp_scaling", False):
        raise ConfigError(
            f"trainer.gradient_clip_val with precision {trainer.precision} and a fused {type(optimizer).__name__}, "
            "which unscales gradients itself; set its fused to false, or precision to bf16-mixed"
        )


def check_settings(
    optimizer: object,
    warmup_steps: object,
    protocols: Mapping[str, object],
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Checks types and ranges of constructor arguments.

    Raises:
        ConfigError: One cannot be used.
    """
    if optimizer is not None and (isinstance(optimizer, Optimizer) or not callable(optimizer)):
        raise ConfigError(
            f"the optimizer is {str(optimizer).split()[0]!r} ({type(optimizer).__name__}); expected a function that "
            "makes one from parameter groups, such as functools.partial(torch.optim.SGD, lr=0.01)"
        )
    if not isinstance(warmup_steps, int) or warmup_steps < 0:
        raise ConfigError(f"warmup_steps is {warmup_steps!r}; expected a number from 0")
    for name, protocol in protocols.items():
        if not isinstance(protocol, str | Protocol):
            raise ConfigError(f"{name} is {protocol!r:.80}; expected the name of a protocol, such as whole, or one")
    check_normalization(mean, std)
