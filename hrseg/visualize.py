"""Pictures of images, label maps and scores, as arrays and in notebooks.

Images are (H, W, 3) uint8 RGB, label maps (H, W) uint8 train ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from hrseg.data.labels import LabelTable
from hrseg.utils.resize import resize_image

_WRONG = (230, 40, 40)
_RIGHT = (60, 160, 80)
_GAP = 6


def overlay(image: np.ndarray, target: np.ndarray, labels: LabelTable, opacity: float = 0.6) -> np.ndarray:
    """Blends the classes' colours into an image, except at ignored pixels.

    Args:
        image: (H, W, 3) uint8.
        target: (H, W) uint8 train ids.
        labels: The label table.
        opacity: Weight of the colours, 0 to 1.
    """
    blended = cv2.addWeighted(labels.colorize(target), opacity, image, 1 - opacity, 0)
    cv2.copyTo(image, (target >= labels.num_classes).view(np.uint8), blended)
    return blended


def errors(prediction: np.ndarray, target: np.ndarray, labels: LabelTable) -> np.ndarray:
    """Colours wrong pixels red, right ones green, ignored ones black, as (H, W, 3) uint8."""
    picture = np.where((prediction == target)[..., None], np.array(_RIGHT, np.uint8), np.array(_WRONG, np.uint8))
    picture[target == labels.ignore_index] = 0
    return picture


def show(picture: np.ndarray, width: int | None = None) -> None:
    """Displays a picture in a notebook, as JPEG to keep the notebook small.

    Args:
        picture: (H, W, 3) uint8 RGB.
        width: Displayed width in pixels; None for the picture's own.
    """
    from IPython.display import Image, display  # not a dependency; every notebook has it

    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    display(Image(data.tobytes(), format="jpeg", width=width))


def panel(image: np.ndarray, target: np.ndarray, prediction: np.ndarray, labels: LabelTable) -> np.ndarray:
    """Image, ground truth, prediction and errors side by side, as (H, 4 W + gaps, 3) uint8."""
    truth, predicted = labels.colorize(target), labels.colorize(prediction)
    return side_by_side([image, truth, predicted, errors(prediction, target, labels)])


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Joins pictures (H, W, 3) uint8 of equal height horizontally, with a white gap."""
    gap = np.full((pictures[0].shape[0], _GAP, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.hstack(parts[:-1])


def heat(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Maps values (H, W) to the viridis colour map, as (H, W, 3) uint8.

    Args:
        values: Of any number type.
        low: Value of the darkest colour; None for the minimum.
        high: Value of the brightest colour; None for the maximum.
    """
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    shares = (values - low) / (high - low) if high > low else np.zeros(values.shape)
    shades = (255 * shares.clip(0, 1)).round().astype(np.uint8)
    picture: np.ndarray = cv2.applyColorMap(shades, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return picture


def channels(features: np.ndarray, number: int = 6, height: int = 96) -> np.ndarray:
    """The channels of a feature map with the largest standard deviation, side by side, as (height, w, 3) uint8.

    Args:
        features: (C, h, w), of any number type.
        number: Number of channels.
        height: In pixels, to which they are upsampled by nearest neighbour.
    """
    strongest = np.argsort(-features.std((1, 2)), kind="stable")[:number]
    size = height, round(height * features.shape[2] / features.shape[1])
    return side_by_side([resize_image(heat(features[index]), size, cv2.INTER_NEAREST) for index in strongest])


def legend(labels: LabelTable, classes: Sequence[int], width: int) -> np.ndarray:
    """Rows of colour swatches with class names.

    Args:
        labels: The label table.
        classes: Train ids to show, in this order.
        width: Width in pixels.

    Returns:
        (h, width, 3) uint8 on white, with as many rows as needed.
    """
    line, size, scale = _row_of_legend(width)
    rows: list[list[tuple[int, int]]] = [[]]
    x = size
    for train_id in classes:
        (text_width, _), _ = cv2.getTextSize(labels.class_names[train_id], cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        if x + 2 * size + text_width > width and rows[-1]:
            rows.append([])
            x = size
        rows[-1].append((train_id, x))
        x += 3 * size + text_width
    picture = np.full((line * len(rows), width, 3), 255, np.uint8)
    for index, row in enumerate(rows):
        top = index * line + size // 2
        for train_id, left in row:
            cv2.rectangle(picture, (left, top), (left + size, top + size), labels.colors[train_id], -1)
            _write(picture, labels.class_names[train_id], (left + size + size // 2, top + size - size // 6), scale)
    return picture


def _row_of_legend(width: int) -> tuple[int, int, float]:
    """Height of a row and of a swatch in pixels, and the scale of the font, in a legend of a width."""
    scale = max(0.4, min(1.0, width / 1600))
    size = round(24 * scale)
    return 2 * size, size, scale


def _write(picture: np.ndarray, text: str, position: tuple[int, int], scale: float) -> None:
    cv2.putText(picture, text, position, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)


def overlay_with_legend(
    image: np.ndarray, target: np.ndarray, labels: LabelTable, confidence: np.ndarray | None = None
) -> np.ndarray:
    """The overlay above a legend of its classes, as (H + h, W, 3) uint8.

    Args:
        image: (H, W, 3) uint8.
        target: (H, W) uint8 train ids.
        labels: The label table.
        confidence: (H, W) uint8 or uint16, whose largest value stands for 1; drawn as a heat map with its scale to the
            right of the overlay, (H + h, 2 W + gap, 3).
    """
    present = [int(train_id) for train_id in np.unique(target) if train_id < labels.num_classes]
    picture = np.vstack([overlay(image, target, labels), legend(labels, present, image.shape[1])])
    if confidence is None:
        return picture
    below = np.full((len(picture) - len(image), *picture.shape[1:]), 255, np.uint8)
    scale = _scale("confidence", image.shape[1])[: len(below)]
    below[: len(scale)] = scale
    return side_by_side([picture, np.vstack([heat(confidence, 0, np.iinfo(confidence.dtype).max), below])])


def _scale(name: str, width: int) -> np.ndarray:
    """The colours of `heat` from 0 to 1 in a bar below their name, as tall as one row of a legend of this width."""
    height, size, scale = _row_of_legend(width)
    picture = np.full((height, width, 3), 255, np.uint8)
    bar = heat(np.linspace(0, 1, max(1, width // 3))[None], 0, 1).repeat(size, 0)
    texts = f"{name} 0", "1"
    left = size + cv2.getTextSize(texts[0], cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] + size // 2
    top = size // 2
    visible = bar[:, : max(0, width - left)]
    picture[top : top + size, left : left + visible.shape[1]] = visible
    for text, x in zip(texts, (size, left + bar.shape[1] + size // 2), strict=True):
        _write(picture, text, (x, top + size - size // 6), scale)
    return picture


def contact_sheet(panels: Sequence[np.ndarray], labels: LabelTable) -> np.ndarray:
    """Stacks panels of any size vertically, above a legend of all classes, as uint8 RGB."""
    width = max(picture.shape[1] for picture in panels)
    rows = [
        np.pad(picture, ((0, _GAP), (0, width - picture.shape[1]), (0, 0)), constant_values=255) for picture in panels
    ]
    return np.vstack([*rows, legend(labels, range(labels.num_classes), width)])


def confusion_picture(matrix: np.ndarray, labels: LabelTable) -> np.ndarray:
    """Draws a confusion matrix, normalised by row.

    Args:
        matrix: (K, K) or (K, K + 1) counts of pixels, row = true class, column = predicted class; a last column counts
            predictions that are no class.
        labels: The label table.

    Returns:
        (h, w, 3) uint8: the shade of a cell is its share of the row's pixels, printed in percent from 1 % on; rows of
        classes that never occur stay white.
    """
    names = [*labels.class_names, "none"][: matrix.shape[1]]
    cell, scale = 36, 0.45
    margin = 12 + max(cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] for name in names)
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    shade = np.stack([255 - 2.2 * shares, 255 - 1.6 * shares, 255 - 0.9 * shares], axis=-1)
    cells = shade.round().astype(np.uint8).repeat(cell, 0).repeat(cell, 1)
    for row, column in np.argwhere(shares >= 0.995).tolist():
        color = (255, 255, 255) if shares[row, column] > 50 else (0, 0, 0)
        position = (column * cell + 4, row * cell + 23)
        text = f"{shares[row, column]:.0f}"
        cv2.putText(cells, text, position, cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)
    predicted = np.rot90(_names(names, margin, cell, scale))
    true = _names(names[: matrix.shape[0]], margin, cell, scale)
    corner = np.full((margin, margin, 3), 255, np.uint8)
    return np.vstack([np.hstack([corner, predicted]), np.hstack([true, cells])])


def _names(names: Sequence[str], width: int, line: int, scale: float) -> np.ndarray:
    """Draws names on one line each, as (line * names, width, 3) uint8."""
    picture = np.full((line * len(names), width, 3), 255, np.uint8)
    for index, name in enumerate(names):
        _write(picture, name, (6, index * line + line // 2 + 5), scale)
    return picture
