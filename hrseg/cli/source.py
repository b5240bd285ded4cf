"""A trained network for a verb: a run, a checkpoint, or weights from elsewhere with `--labels`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hrseg.cli.label_tables import ACCEPTED, read_labels
from hrseg.errors import ConfigError
from hrseg.run.folders import run_dir_of
from hrseg.utils.paths import expanded
from hrseg.utils.text_files import read_settings

if TYPE_CHECKING:
    from torch import nn

    from hrseg.inference import Predictor
    from hrseg.inference.checkpoint import Description


class Source(NamedTuple):
    """A trained network.

    Args:
        network: In evaluation mode.
        description: Classes, preprocessing and protocol.
        run_dir: Folder of its run; None for weights from elsewhere.
        licence: Of published weights, or of those that a run started from; empty where it is not known.
    """

    network: nn.Module
    description: Description
    run_dir: Path | None
    licence: str

    def predictor(self, device: str | None, protocol: str | None, precision: str = "fp32") -> Predictor:
        """A predictor with the network.

        Args:
            device: As for `Predictor`.
            protocol: Name of a protocol; None is that of the description.
            precision: As for `Predictor`.

        Raises:
            ConfigError: The device or precision cannot be used.
            UnknownNameError: There is no protocol of that name.
        """
        from hrseg.inference import Predictor, named_protocol

        stated = self.description
        return Predictor(
            self.network,
            stated.labels,
            stated.mean,
            stated.std,
            device,
            stated.protocol if protocol is None else named_protocol(protocol, stated.crop_size),
            stated.input_size,
            precision,
            stated.temperature,
        )


def open_source(given: str, labels: str | None, trust: bool) -> Source:
    """Builds a network with its weights.

    Args:
        given: The folder of a run; a checkpoint; or, with `labels`, a file of weights or a name in
            `hrseg weights list`.
        labels: What `read_labels` takes.
        trust: As for `Predictor.from_checkpoint`.

    Raises:
        ConfigError: The number of classes differs from that of the labels, or a class is not trusted.
        WeightsError: The file cannot be used.
    """
    from hrseg.inference.checkpoint import Description, rebuild_network  # torch
    from hrseg.inference.preprocess import IMAGENET_MEAN, IMAGENET_STD
    from hrseg.inference.protocol import Protocol
    from hrseg.models import create_model
    from hrseg.models.weights.published import ZOO
    from hrseg.models.weights.read import read_content

    if labels is None:
        path = checkpoint_in(expanded(given))
        network, description = rebuild_network(read_content(path), path, trust)
        run_dir = run_dir_of(path)
        return Source(network.eval(), description, run_dir, "" if run_dir is None else _licence_of_start(run_dir))
    table, input_size = read_labels(labels)
    found = create_model(from_file=given)
    classes = getattr(found, "num_classes", None)
    if classes != table.num_classes:
        raise ConfigError(
            f"{given} has {classes} classes, {table.name} has {table.num_classes}; give other --labels: {ACCEPTED}"
        )
    size = None if input_size is None else (input_size[0], input_size[1])
    published = ZOO.get(given)
    # of all code bases with known weights that do not state their own
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    described = Description(found.config, table, mean, std, Protocol(), None, size)
    return Source(found.eval(), described, None, published.licence if published else "")


def _licence_of_start(run_dir: Path) -> str:
    """The licence of the published weights that a run started from."""
    from hrseg.models.weights.published import ZOO

    model = read_settings(run_dir / "config.yaml").get("model")
    settings = model.get("init_args", model) if isinstance(model, dict) else {}
    network, weights = (settings.get(key) if isinstance(settings, dict) else None for key in ("network", "weights"))
    published = ZOO.get(str(weights)) or ZOO.get(f"{network}.{weights}")
    if published is None:
        return ""
    return f"training started from {published.name}: {published.licence or 'no licence stated'}"


def checkpoint_in(path: Path) -> Path:
    """The checkpoint of a run's folder; a file is returned as it is.

    Raises:
        ConfigError: The folder has no checkpoint.
    """
    if not path.is_dir():
        return path
    found = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    checkpoint = next((file for file in found if file.is_file()), None)
    if checkpoint is None:
        raise ConfigError(f"no checkpoint in {path / 'checkpoints'}; expected the folder of a run, or a checkpoint")
    return checkpoint
