"""What `SegmentationTask` refuses: networks, labels and settings with which its steps cannot work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError
from hrseg.inference import Protocol, check_normalization
from hrseg.models import Network, Segmenter


def checked_labels(labels: object) -> LabelTable:
    """The classes, out of a table or what stands for one in a checkpoint.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(labels, LabelTable):
        return labels
    if not isinstance(labels, Mapping):
        found = "" if labels is None else f", not {type(labels).__name__}"
        raise ConfigError(f"SegmentationTask needs the classes to train on{found}; give labels=data.labels")
    return LabelTable.from_dict(labels)


def check_network(network: object, labels: LabelTable) -> None:
    """Looks at a network before it has seen an image.

    Raises:
        ConfigError: It is no module, no segmentation network, or one of another number of classes.
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


def check_logits(outputs: Mapping[str, Tensor], images: Tensor, num_classes: int, network: nn.Module) -> None:
    """Looks at the shapes of the logits, which costs nothing.

    Raises:
        ConfigError: They are no maps, or have not one channel per class.
    """
    for name in ("out", "aux"):
        if name in outputs:
            found = tuple(outputs[name].shape)
            if len(found) != 4 or found[1] != num_classes or found[0] != images.shape[0]:
                raise ConfigError(
                    f"{type(network).__name__} gives {name!r} of shape {found}; expected logits "
                    f"({images.shape[0]}, {num_classes}, h, w), one channel for each of the {num_classes} classes"
                )


def check_trainer(trainer: Trainer, labels: LabelTable) -> None:
    """Looks at what the task is to be run with.

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


def check_clipping(trainer: Trainer, optimizer: Optimizer) -> None:
    """Refuses what Lightning cannot do: clip gradients that the optimiser itself unscales.

    Raises:
        ConfigError: Gradients are to be clipped, precision is 16-mixed, and the optimiser fused.
    """
    is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    if trainer.gradient_clip_val and is_scaled and unscales(optimizer):
        raise ConfigError(
            f"trainer.gradient_clip_val with precision {trainer.precision} and a fused {type(optimizer).__name__}, "
            "which unscales gradients itself; set its fused to false, or precision to bf16-mixed"
        )


def unscales(optimizer: Optimizer) -> bool:
    """Whether an optimiser is fused with the unscaling of gradients."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def check_settings(
    optimizer: object,
    warmup_steps: object,
    protocols: Mapping[str, object],
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Looks at the types and ranges of what the constructor of the task got.

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
