"""Files of a prediction: label ids, and the classes' colours over the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrseg.data.labels import LabelTable
from hrseg.utils.images import write_image
from hrseg.visualize import overlay_with_legend

LABELS, OVERLAYS = "labels", "overlays"
IMAGES = "images.json"  # in a run's folder, the files that `hrseg predict --images` read, by the name of their output


def write_prediction(folder: Path, name: str, image: np.ndarray, prediction: np.ndarray, labels: LabelTable) -> None:
    """Writes `labels/NAME.png` (label ids, 8 bit) and `overlays/NAME.png` (colours over the image, and a legend).

    Args:
        folder: Holds the two subfolders.
        name: The image's name without its suffix; may contain subfolders.
        image: (H, W, 3) uint8 RGB.
        prediction: (H, W) uint8 train ids.
        labels: Maps train ids to label ids and colours.
    """
    write_image(folder / LABELS / f"{name}.png", labels.decode(prediction))
    write_image(folder / OVERLAYS / f"{name}.png", overlay_with_legend(image, prediction, labels))


def written_files(folder: Path) -> str:
    """Lines for the user that say where `write_prediction` wrote."""
    return f"label ids: {folder / LABELS}\noverlays: {folder / OVERLAYS}"
