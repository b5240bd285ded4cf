"""Image and label files in, image and label files out; the only place that knows of OpenCV's channel order."""

from __future__ import annotations

import errno
import io
import logging
import os
import struct
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from hrseg.errors import DataFileError, FileSystemError
from hrseg.files import replacing

try:
    from kornia_rs.io import decode_image_png_u8
except ImportError:  # no wheel for this Python: OpenCV gives the same pixels, but takes three times as long for a PNG
    decode_image_png_u8 = None

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

# what is wrong with a file stands in our own error
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

_PAUSES = (1, 2, 4, 8, 16, 32)  # seconds between attempts
_FILE_SYSTEM_AWAY = {
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ESHUTDOWN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN")
}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_PNG_GREY, _PNG_RGB = 0, 2  # colour types without palette and alpha


def read_image(path: Path) -> np.ndarray:
    """Reads an image as a camera's viewer would show it.

    Greyscale becomes three equal channels, alpha is dropped, 16 bits become 8, and the rotation noted in EXIF is done.

    Args:
        path: A file of any format in `IMAGE_SUFFIXES`; its content decides, not its suffix.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataFileError: The file is missing, truncated, or no image.
        FileSystemError: Its file system is away, and was waited for.
    """
    data = _read(path)
    # an orientation is left to OpenCV; the name of its chunk may also occur by chance, which does no harm
    is_plain = _png_format(data) == (8, _PNG_RGB) and b"eXIf" not in data
    image = _decode_png(data, "rgb") if is_plain else _decode(data, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise _unreadable(path)
    return image


def image_size(path: Path) -> tuple[int, int]:
    """The (height, width) that `read_image` gives a file, from its head alone.

    Raises:
        DataFileError: The file is missing, or no image.
    """
    try:
        with Image.open(path) as image:
            is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # a quarter, either way
            return image.size if is_turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # Pillow's own have no number
            raise _refused(path, error) from error
        raise _unreadable(path) from error


def read_label(path: Path, in_color: bool = False) -> np.ndarray:
    """Reads a label: the numbers that the file holds, which for a palette image are the indices, not the colours.

    Args:
        path: A file of one channel without loss (PNG, TIFF, BMP); 16 bits are fine as long as no value exceeds 255.
        in_color: Whether the file may be a picture of the label instead, with or without alpha, which is dropped.

    Returns:
        (H, W) uint8, as on disk; of a picture (H, W, 3) uint8, RGB.

    Raises:
        DataFileError: The file is missing, truncated, a JPEG, has several channels, or values above 255.
        FileSystemError: Its file system is away, and was waited for.
    """
    data = _read(path)
    if data.startswith(_JPEG_SIGNATURE):
        raise DataFileError(f"{path} is a JPEG, whose compression changes labels; expected a PNG with one channel")
    mode = {(8, _PNG_GREY): "mono", (8, _PNG_RGB): "rgb"}.get(_png_format(data) or (0, 0))
    label = _decode_png(data, mode) if mode else _decode_indices(data)
    if label is None:
        raise _unreadable(path)
    if in_color and label.ndim == 3 and label.shape[2] in (3, 4):
        return label[..., :3]
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


def images_below(folder: Path, suffix: str = "") -> dict[str, Path]:
    """Lists the image files below a folder; links are followed, hidden files passed over.

    Args:
        folder: Where to look; nothing is found in a folder that is not there.
        suffix: Only files whose name ends with it, its extension apart, such as "_mask".

    Returns:
        The files by their path below the folder, without extension and suffix, in the order of these.

    Raises:
        DataFileError: Two files differ in their extension alone.
    """
    found: dict[str, Path] = {}
    for place, _, names in os.walk(folder, followlinks=True):
        for path in (Path(place, name) for name in sorted(names)):
            if path.suffix.lower() not in IMAGE_SUFFIXES or not path.stem.endswith(suffix) or path.name[0] == ".":
                continue
            stem = path.relative_to(folder).with_suffix("").as_posix().removesuffix(suffix)
            if stem in found:
                raise DataFileError(f"{found[stem]} and {path} have the same name; expected one file, remove the other")
            found[stem] = path
    return dict(sorted(found.items()))


def _unreadable(path: Path) -> DataFileError:
    return DataFileError(f"{path} is truncated or no image that can be read; copy or extract the file again")


def _read(path: Path) -> bytes:
    """The bytes of a file; waits for a file system that is away for a while, as those over a network may be."""
    pauses = iter(_PAUSES)
    while True:
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno not in _FILE_SYSTEM_AWAY:
                raise _refused(path, error) from error
            pause = next(pauses, None)
            if pause is None:
                raise FileSystemError(
                    f"{path} cannot be read: {error.strerror}, {len(_PAUSES) + 1} times within {sum(_PAUSES)} s; is "
                    "its file system still there? The same command goes on once it is"
                ) from error
            _log.warning("%s cannot be read: %s; trying again in %d s", path, error.strerror, pause)
            time.sleep(pause)


def _refused(path: Path, error: OSError) -> DataFileError:
    return DataFileError(f"{path} cannot be read: {error.strerror or error}")


def _decode(data: bytes, flag: int) -> np.ndarray | None:
    try:
        decoded: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:  # an empty file, or more pixels than OpenCV allows
        return None
    return decoded


def _decode_png(data: bytes, mode: str) -> np.ndarray | None:
    """Decodes an 8-bit PNG of exactly the channels that `mode` ("rgb" or "mono") names."""
    if decode_image_png_u8 is None:
        return _decode(data, cv2.IMREAD_COLOR_RGB if mode == "rgb" else cv2.IMREAD_GRAYSCALE)
    width, height = struct.unpack_from(">II", data, 16)
    try:
        image: np.ndarray = decode_image_png_u8(data, (height, width), mode)
    except Exception:  # what a file that is truncated or corrupt raises has no class of its own
        return None
    return image if mode == "rgb" else image[..., 0]


def _decode_indices(data: bytes) -> np.ndarray | None:
    """Decodes with Pillow, which, unlike OpenCV, does not turn palette indices into colours."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            label = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    depth, color_type = _png_format(data) or (8, _PNG_GREY)
    if color_type == _PNG_GREY and depth in (2, 4):  # Pillow stretches these to 0-255
        label = label // (255 // (2**depth - 1))
    return label


def _png_format(data: bytes) -> tuple[int, int] | None:
    """Bits per channel and colour type of a PNG; None for anything else."""
    if not data.startswith(_PNG_SIGNATURE) or len(data) < 26:
        return None
    depth, color_type = struct.unpack_from("BB", data, 24)
    return depth, color_type
