"""Files of a prediction: label ids, the classes' colours over the image, confidence and probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrseg.data.labels import LabelTable
from hrseg.inference.certainty import Certainty, CertaintyOptions
from hrseg.utils.files import replacing
from hrseg.utils.images import write_image
from hrseg.visualize import overlay_with_legend

LABELS, OVERLAYS, CONFIDENCE, PROBABILITIES = "labels", "overlays", "confidence", "probabilities"
IMAGES = "images.json"  # in a run's folder, the files that `hrseg predict --images` read, by the name of their output

_NOTHING, _NONE = Certainty(), CertaintyOptions()


def write_prediction(
    folder: Path,
    name: str,
    image: np.ndarray,
    prediction: np.ndarray,
    labels: LabelTable,
    certainty: Certainty = _NOTHING,
) -> None:
    """Writes the files of one image.

    - `labels/NAME.png`: label ids, 8 bit;
    - `overlays/NAME.png`: colours over the image, and a legend; beside them the confidence, if there is one;
    - `confidence/NAME.png`, if there is one: the probability of each pixel's label times 255 (8 bit) or 65535 (16 bit);
    - `probabilities/NAME.npz`, if there are any: the array `probabilities`, (K, H, W) float16.

    Args:
        folder: Holds the subfolders.
        name: The image's name without its suffix; may contain subfolders.
        image: (H, W, 3) uint8 RGB.
        prediction: (H, W) uint8 train ids.
        labels: Maps train ids to label ids and colours.
        certainty: Confidence and probabilities.

    Raises:
        OutputError: A file cannot be written.
    """
    confidence, probabilities = certainty
    write_image(folder / LABELS / f"{name}.png", labels.decode(prediction))
    picture = overlay_with_legend(image, prediction, labels, confidence)
    write_image(folder / OVERLAYS / f"{name}.png", picture)
    if confidence is not None:
        write_image(folder / CONFIDENCE / f"{name}.png", confidence)
    if probabilities is not None:
        with replacing(folder / PROBABILITIES / f"{name}.npz") as temporary:
            np.savez(temporary, probabilities=probabilities)  # compression takes seconds and saves little


def written_files(folder: Path, certainty: CertaintyOptions = _NONE) -> str:
    """Lines for the user that say where `write_prediction` wrote."""
    lines = [f"label ids: {folder / LABELS}", f"overlays: {folder / OVERLAYS}"]
    if certainty.confidence is not None:
        lines.append(f"confidence: {folder / CONFIDENCE}, times {2**certainty.confidence - 1}")
    if certainty.probabilities:
        lines.append(f"probabilities of all classes: {folder / PROBABILITIES}")
    return "\n".join(lines)
