"""Image and label files in, image and label files out; the only place that knows of OpenCV's channel order."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from hrseg.errors import DataFileError
from hrseg.files import replacing

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_PNG_GREY = 0  # the colour type of a PNG without palette, colour or alpha


def read_image(path: Path) -> np.ndarray:
    """Reads an image as a camera's viewer would show it.

    Greyscale becomes three equal channels, alpha is dropped, 16 bits become 8, and the rotation noted in EXIF is done.

    Args:
        path: A file of any format in `IMAGE_SUFFIXES`; its content decides, not its suffix.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataFileError: The file is missing, truncated, or no image.
    """
    image = _decode(_read(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DataFileError(f"{path} is truncated or no image that can be read; copy or extract the file again")
    return image


def read_label(path: Path) -> np.ndarray:
    """Reads a label: the numbers that the file holds, which for a palette image are the indices, not the colours.

    Args:
        path: A file of one channel without loss (PNG, TIFF, BMP); 16 bits are fine as long as no value exceeds 255.

    Returns:
        (H, W) uint8, as on disk.

    Raises:
        DataFileError: The file is missing, truncated, a JPEG, has several channels, or values above 255.
    """
    data = _read(path)
    head = data[:26].tobytes()
    if head.startswith(_JPEG_SIGNATURE):
        raise DataFileError(f"{path} is a JPEG, whose compression changes labels; expected a PNG with one channel")
    label = _decode(data, cv2.IMREAD_UNCHANGED) if _png_format(head) == (8, _PNG_GREY) else _decode_indices(data)
    if label is None:
        raise DataFileError(f"{path} is truncated or no image that can be read; copy or extract the file again")
    if label.ndim != 2:
        raise DataFileError(
            f"{path} has {label.shape[2]} channels; expected one channel of class ids. Is it a picture of the label?"
        )
    if label.dtype != np.uint8 and (label.min() < 0 or label.max() > 255):
        raise DataFileError(
            f"{path} holds values from {label.min()} to {label.max()}; expected 0-255. Are these instance ids?"
        )
    return label.astype(np.uint8, copy=False)


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an image or a label as PNG, whole or not at all, and makes its folder.

    Args:
        path: Ends in `.png`.
        image: (H, W, 3) uint8 RGB, or (H, W) uint8.
    """
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".png", pixels)
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _read(path: Path) -> np.ndarray:
    """The file's bytes; read here because OpenCV reports neither a missing nor an empty file as an error."""
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}") from error


def _decode(data: np.ndarray, flag: int) -> np.ndarray | None:
    try:
        decoded: np.ndarray | None = cv2.imdecode(data, flag)
    except cv2.error:  # an empty file, or more pixels than OpenCV allows
        return None
    return decoded


def _decode_indices(data: np.ndarray) -> np.ndarray | None:
    """Decodes with Pillow, which, unlike OpenCV, does not turn palette indices into colours."""
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            label = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    depth, color_type = _png_format(data[:26].tobytes()) or (8, _PNG_GREY)
    if color_type == _PNG_GREY and depth in (2, 4):  # Pillow stretches these to 0-255
        label = label // (255 // (2**depth - 1))
    return label


def _png_format(head: bytes) -> tuple[int, int] | None:
    """Bits per channel and colour type, from the first 26 bytes; None when these are not a PNG's."""
    if not head.startswith(_PNG_SIGNATURE) or len(head) < 26:
        return None
    depth, color_type = struct.unpack_from("BB", head, 24)
    return depth, color_type
