"""Certificates: what an exported file changes, measured beside PyTorch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from hrseg.errors import ConfigError
from hrseg.inference import Predictor, normalize
from hrseg.inference.exported import ExportDescription, ExportedNetwork
from hrseg.inference.exported.description import LABELS, Precision
from hrseg.metrics import confusion_matrix, mean_iou
from hrseg.models import outputs_of
from hrseg.utils.resize import resize_image
from hrseg.utils.upsample import upsample

NEAR_TIE = 1e-3  # logits; rounding may decide between two classes that are this close
_MOST_PIXELS = {"fp32": 1e-4}  # share that may differ, all of them near-ties


class Scored(NamedTuple):
    """An image for a certificate.

    Args:
        image: (H, W, 3) uint8 RGB.
        target: (H, W) uint8 train ids and the ignore index; None if not known.
    """

    image: np.ndarray
    target: np.ndarray | None


@dataclass(frozen=True)
class Certificate:
    """What an exported file changes.

    Args:
        runs_on: Runtime, device and precision of the file.
        precision: Of the file.
        images: Number of images.
        pixels: Number of their pixels.
        differing: Pixels with another label than PyTorch's.
        beyond_ties: Those whose two best logits differ by more than `NEAR_TIE`.
        largest_difference: Of the logits, over all images.
        miou: mIoU of the file, a fraction; None without labels.
        miou_torch: mIoU of PyTorch.
        seconds: Median time of an image, the whole file from uint8 to labels.
        seconds_torch: The same of PyTorch as `Predictor` runs it, on the CPU.
        bytes: Size of the file, with its weights.
    """

    runs_on: str
    precision: Precision
    images: int
    pixels: int
    differing: int
    beyond_ties: int
    largest_difference: float
    miou: float | None
    miou_torch: float | None
    seconds: float
    seconds_torch: float
    bytes: int

    def violation(self, max_drop: float) -> str | None:
        """What breaks the bound, in a sentence; None if nothing does.

        Args:
            max_drop: Points of mIoU that another precision than fp32 may lose.
        """
        share = self.differing / self.pixels
        if self.precision in _MOST_PIXELS:
            most = _MOST_PIXELS[self.precision]
            if self.beyond_ties or share > most:
                return (
                    f"{self.differing} of {self.pixels} pixels differ from PyTorch, {self.beyond_ties} of them where "
                    f"the two best logits are more than {NEAR_TIE:g} apart; expected at most {most:g} of the pixels, "
                    "and near-ties only"
                )
        elif self.miou is not None and self.miou_torch is not None:
            drop = 100 * (self.miou_torch - self.miou)
            if not drop <= max_drop:
                return f"mIoU drops by {drop:.2f} points; expected at most {max_drop:g} (--max_drop)"
        return None

    def to_dict(self) -> dict[str, Any]:
        """As stored in the JSON file."""
        return asdict(self)


def certify(
    network: nn.Module, exported: ExportedNetwork, samples: Iterable[Scored], files: Iterable[Path]
) -> Certificate:
    """Runs a file beside the network that it was exported from, image by image.

    Args:
        network: The network, as trained.
        exported: The file.
        samples: The images; read one at a time.
        files: What the exported file consists of.

    Raises:
        ConfigError: There is no image, or the file does not take one of them.
    """
    description = exported.description
    labels = description.labels
    predictor = Predictor(network, labels, description.mean, description.std, "cpu", input_size=description.input_size)
    counts = torch.zeros(2, labels.num_classes, labels.num_classes + 1, dtype=torch.int64)
    seconds: list[tuple[float, float]] = []
    pixels = differing = beyond_ties = 0
    largest = 0.0
    has_targets = True
    for sample in samples:
        if not seconds:  # the first run allocates, packs weights and tunes
            predictor(sample.image)
            exported.predict(sample.image[None])
        start = time.perf_counter()
        ours = predictor(sample.image)
        middle = time.perf_counter()
        theirs = exported.predict(sample.image[None])[LABELS][0]
        seconds.append((time.perf_counter() - middle, middle - start))
        margins, difference = _compare_logits(predictor.network, exported, description, sample.image)
        differs = torch.from_numpy(ours != theirs)
        pixels += differs.numel()
        differing += int(differs.sum())
        beyond_ties += int((margins[differs] > NEAR_TIE).sum())
        largest = max(largest, difference)
        has_targets &= sample.target is not None
        if sample.target is not None:
            target = torch.from_numpy(sample.target)
            for index, prediction in enumerate((theirs, ours)):
                counts[index] += confusion_matrix(
                    torch.from_numpy(prediction), target, labels.num_classes, labels.ignore_index
                )
    if not seconds:
        raise ConfigError("no image to certify the file with; give --images")
    own, of_torch = np.median(np.array(seconds), axis=0)
    mious = [float(mean_iou(matrix)) if has_targets else None for matrix in counts]
    return Certificate(
        exported.runs_on,
        description.precision,
        len(seconds),
        pixels,
        differing,
        beyond_ties,
        largest,
        mious[0],
        mious[1],
        float(own),
        float(of_torch),
        sum(path.stat().st_size for path in files),
    )


def fitted(sample: Scored, description: ExportDescription) -> Scored:
    """Resizes an image and its labels where the file takes one size only, and cuts them to the multiple it takes."""
    image, target = sample
    if description.size is not None:
        image = resize_image(image, description.size)
        target = None if target is None else resize_image(target, description.size, cv2.INTER_NEAREST)
    height, width = (side - side % description.multiple for side in image.shape[:2])
    return Scored(image[:height, :width], None if target is None else target[:height, :width])


@torch.inference_mode()
def _compare_logits(
    network: nn.Module, exported: ExportedNetwork, description: ExportDescription, image: np.ndarray
) -> tuple[Tensor, float]:
    """The margin between PyTorch's two best logits of each pixel, (H, W), and the largest difference to the file's."""
    size = image.shape[:2]
    seen = image if description.input_size is None else resize_image(image, description.input_size)
    batch = torch.from_numpy(np.ascontiguousarray(seen)).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (description.mean, description.std))
    normalized = normalize(batch, mean, std, description.channel_order)
    logits = outputs_of(network, normalized)["out"]
    theirs = exported.outputs(normalized)["out"]
    full = upsample(upsample(logits, seen.shape[:2], description.align_corners), size, description.align_corners)
    best = full.topk(min(2, full.shape[1]), dim=1).values[0]
    return best[0] - best[-1], float((logits - theirs).abs().max())
