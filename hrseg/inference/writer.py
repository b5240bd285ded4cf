"""The files that a prediction leaves: the label ids and a picture of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrseg.data.labels import LabelTable
from hrseg.utils.images import write_image
from hrseg.visualize import overlay_with_legend


def write_prediction(folder: Path, name: str, image: np.ndarray, prediction: np.ndarray, labels: LabelTable) -> None:
    """Writes `labels/NAME.png` (label ids, 8 bit) and `overlays/NAME.png` (colours over the image, with a legend).

    Args:
        folder: Where the two sub-folders are made.
        name: The image's name without its suffix; it may hold sub-folders.
        image: (H, W, 3) uint8 RGB.
        prediction: (H, W) uint8 train ids.
        labels: Turns train ids to label ids and colours.
    """
    write_image(folder / "labels" / f"{name}.png", labels.decode(prediction))
    write_image(folder / "overlays" / f"{name}.png", overlay_with_legend(image, prediction, labels))
