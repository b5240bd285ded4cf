"""What the quantisations to int8 share: which parts stay float, images, and the gate on the loss of mIoU."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from hrseg.export.certificate import Scored, fitted
from hrseg.inference.exported import ExportDescription
from hrseg.metrics import confusion_matrix, mean_iou
from hrseg.models.networks.hrnet import HighResolutionModule
from hrseg.utils.lazy import Lazy
from hrseg.utils.progress import track_progress

T = TypeVar("T")
Predict = Callable[[np.ndarray], np.ndarray]  # an image (H, W, 3) uint8 to train ids (H, W) uint8, or to logits

CALIBRATION_IMAGES = 300  # as NNCF uses by default
OUTLIERS = 1e-5  # share of the activations beyond each end of a range
RANKING_IMAGES = 16  # on which the most sensitive layers are found
ROUNDS = 20  # of putting layers back to float
SECONDS_TO_LOAD = 1.0  # of a model into its runtime
_PART = "network"  # path in `SegmentationGraph` of what holds the network, under the same name


@dataclass(frozen=True)
class Quantization:
    """Images for a quantisation, and what it may lose.

    Args:
        images: For the ranges of activations: (H, W, 3) uint8 RGB.
        scored: For the gate on mIoU; if one has no labels, there is no gate.
        max_drop: Points of mIoU that int8 may lose.
    """

    images: Sequence[np.ndarray]
    scored: Sequence[Scored] = ()
    max_drop: float = 0.5

    @property
    def has_labels(self) -> bool:
        """Whether the first and the last image of the gate have labels."""
        return len(self.scored) > 0 and all(self.scored[index].target is not None for index in (0, -1))

    def fitted(self, description: ExportDescription) -> Quantization:
        """With images of sizes that a model takes."""
        images = Lazy(
            range(len(self.images)), lambda index: fitted(Scored(self.images[index], None), description).image
        )
        scored = Lazy(range(len(self.scored)), lambda index: fitted(self.scored[index], description))
        return Quantization(images, scored, self.max_drop)


def stays_float(network: nn.Module, path: str, is_sum: bool) -> bool:
    """Whether an operation is not quantised: of pre- and postprocessing, of the head, and the sums of fusions.

    Args:
        network: The network.
        path: Path of the innermost module that runs it, in `SegmentationGraph`.
        is_sum: Whether it adds two maps.
    """
    part, _, own = path.partition(".")
    if part != _PART:
        return True
    own = own.removeprefix(_PART).removeprefix(".")
    heads: tuple[str, ...] = getattr(network, "head_names", ("segmentation_head",))  # else SMP's name
    if any(own == head or own.startswith(f"{head}.") for head in heads):
        return True
    return is_sum and isinstance(network.get_submodule(own), HighResolutionModule)


def announce(predict: Predict, quantization: Quantization, layers: int, runs: float) -> None:
    """Says how long a quantisation will take, from the time of the float model.

    Args:
        predict: Runs the float model.
        quantization: The images, which the model takes.
        layers: Number of layers that are quantised.
        runs: What the ranges of an image cost, in runs of the float model.
    """
    image = quantization.images[0]
    predict(image)  # allocates
    start = time.perf_counter()
    predict(image)
    seconds = time.perf_counter() - start
    scored = len(quantization.scored) if quantization.has_labels else 0
    minutes = seconds * (runs * len(quantization.images) + 2 * scored) / 60
    more = (seconds * (RANKING_IMAGES * layers + ROUNDS * scored) + SECONDS_TO_LOAD * (layers + ROUNDS)) / 60
    back = f"up to {max(more, 1):.0f} more if layers must go back to float" if scored else "no labels: mIoU is not held"
    what = f"{len(quantization.images)} images to calibrate with and {scored} to score"
    print(f"int8: about {max(minutes, 1):.0f} min for {what}; {back}", file=sys.stderr, flush=True)


def hold(
    make: Callable[[Sequence[str]], T], layers: Callable[[], Sequence[str]], drop: Callable[[T], float], max_drop: float
) -> T:
    """Puts layers back to float, a few at a time, until the loss of mIoU is no more than asked for.

    Args:
        make: Quantises all but some layers.
        layers: Lists all layers, the most sensitive first; only called if some must go back.
        drop: The loss of a model.
        max_drop: The bound, in the unit of `drop`.

    Returns:
        The first model that holds the bound, or the one without quantised layers.
    """
    model = make(())
    if drop(model) <= max_drop:
        return model
    ranked = layers()
    step = -(-len(ranked) // ROUNDS)
    for number in range(step, len(ranked) + step, step):
        model = make(ranked[:number])
        print(f"{min(number, len(ranked))} of {len(ranked)} layers are float again", file=sys.stderr, flush=True)
        if drop(model) <= max_drop:
            break
    return model


def rank(
    layers: Sequence[str], with_one: Callable[[str], Predict], whole: Predict, images: Sequence[np.ndarray]
) -> list[str]:
    """Layers by the squared error of the logits if one alone is quantised, the largest first.

    Args:
        layers: Their names.
        with_one: Makes a model with this layer quantised; maps an image to logits.
        whole: The float model.
        images: Of which a few are used.
    """
    number = min(RANKING_IMAGES, len(images))
    chosen = [images[index] for index in np.linspace(0, len(images) - 1, number).astype(int)]
    expected = [whole(image) for image in chosen]
    errors: dict[str, float] = {}
    for layer in track_progress(layers, "looking for the most sensitive layers", len(layers)):
        run = with_one(layer)
        pairs = zip(chosen, expected, strict=True)
        errors[layer] = sum(float(((run(image) - logits) ** 2).mean()) for image, logits in pairs)
    return sorted(errors, key=errors.__getitem__, reverse=True)


class Scorer:
    """mIoU of models on images, with a line for each of them, the first of which is float.

    Args:
        predict: Maps a model to a function that predicts.
        description: For the classes.
        samples: The images, all with labels.
    """

    def __init__(
        self, predict: Callable[[Any], Predict], description: ExportDescription, samples: Sequence[Scored]
    ) -> None:
        self._predict = predict
        self._labels = description.labels
        self._samples = samples
        self._first: float | None = None

    def drop(self, model: Any) -> float:
        """Computes how many points of mIoU a model loses against the first."""
        predict = self._predict(model)
        labels = self._labels
        counts = torch.zeros(labels.num_classes, labels.num_classes + 1, dtype=torch.int64)
        for image, target in self._samples:
            if target is not None:
                found = torch.from_numpy(predict(image))
                counts += confusion_matrix(found, torch.from_numpy(target), labels.num_classes, labels.ignore_index)
        miou = 100 * float(mean_iou(counts))
        kind = "float" if self._first is None else "int8"
        self._first = miou if self._first is None else self._first
        loss = self._first - miou
        less = "" if kind == "float" else f", {loss:.2f} points less"
        print(f"{kind}: mIoU {miou:.2f} on {len(self._samples)} images{less}", file=sys.stderr, flush=True)
        return loss
