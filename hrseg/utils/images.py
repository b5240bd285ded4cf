"""Reading and writing of image and label files; the only place with OpenCV's channel order."""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
import struct
import time
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from hrseg.errors import DataFileError, FileSystemError, LossyLabelError
from hrseg.utils.files import replacing
from hrseg.utils.image_formats import (
    MAX_PIXELS_VARIABLE,
    decoding,
    max_pixels,
    open_image,
    require_size,
    too_large,
    unreadable,
)
from hrseg.utils.paths import files_below

try:
    from kornia_rs.io import decode_image_png_u8
except ImportError:  # no wheel for this Python; OpenCV decodes the same pixels, three times slower
    decode_image_png_u8 = None

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff"),
    *(".webp", ".gif", ".avif", ".jp2", ".j2k"),
)

# hrseg raises errors of its own for what these would print
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module=r"PIL\.")

_PAUSES = (1, 2, 4, 8, 16, 32)  # seconds between attempts
_FILE_SYSTEM_AWAY = {
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ESHUTDOWN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN")
}
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_BYTES_PER_PIXEL, _BYTES_OF_METADATA = 8, 2**26  # at most, of an image file

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_GREY, _PNG_RGB = 0, 2  # colour types without palette and alpha
_BY_OPENCV = ("JPEG", "MPO", "PNG", "BMP", "WEBP")  # faster than Pillow; the EXIF orientation is applied
_LOSSY = ("JPEG", "MPO", "AVIF", "JPEG2000")
_LOSSY_COMPRESSION = ("jpeg", "tiff_jpeg", "webp")  # within a TIFF
# Pillow's modes of displayable images, each with the mode through which it is converted to RGB
_COLOR_MODES = dict.fromkeys(("1", "L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"), "RGB")
_COLOR_MODES |= {"P": "RGBA", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}
_RANGE_TAGS = ((340, 341), (280, 281))  # (S)MinSampleValue and (S)MaxSampleValue of a TIFF
_MIN_BRIGHTEST = 1 << 14  # of 16 bits; below it are 10, 12 or 14 bits of a sensor, stored without scaling


def read_image(path: Path) -> np.ndarray:
    """Reads an image as a viewer displays it.

    Greyscale becomes three equal channels, palettes and CMYK become RGB, alpha is dropped, and the EXIF orientation is
    applied. 16-bit PNGs are converted to 8 bits by >> 8, as the format defines 65535 as white; one with all values
    below 2^14 would be nearly black and is refused. A 16-bit grey TIFF is scaled from the range in its tags
    SMinSampleValue and SMaxSampleValue (or MinSampleValue and MaxSampleValue), and is refused without them. Other bit
    depths, bands that are neither colours nor a declared alpha, several pages, and animations are refused, too.

    Args:
        path: A file of a format in `IMAGE_SUFFIXES`, recognised by its content.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataFileError: The file is missing, truncated, not a regular file, not an image, has more pixels than
            `$HRSEG_MAX_PIXELS`, or is refused as above.
        FileSystemError: Its file system was unavailable, after retries.
    """
    data = read_file(path)
    if _plain_png_mode(data) == "rgb":
        return _decode_png(data, path, "rgb")
    with open_image(io.BytesIO(data), path) as image:
        if image.format not in _BY_OPENCV:
            return _to_rgb(image, path)
        is_deep = image.format == "PNG" and data[24] == 16
    decoded = _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH * is_deep, path)
    return _to_eight_bits(decoded, path) if is_deep else decoded


def as_rgb(image: np.ndarray | Image.Image) -> np.ndarray:
    """Converts an image in memory to the output of `read_image`.

    Args:
        image: (H, W, 3) uint8 RGB, (H, W, 4) uint8 RGB with alpha, which is dropped, (H, W) or (H, W, 1) uint8 grey, or
            a Pillow image of a mode that `read_image` supports, whose EXIF orientation is applied.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataFileError: It is none of these, or cannot be decoded.
    """
    what = "the image in memory"
    if isinstance(image, Image.Image):
        return _to_rgb(image, Path(getattr(image, "filename", "") or what))
    if not isinstance(image, np.ndarray):
        raise DataFileError(f"{what} is a {type(image).__name__}; expected a path, a Pillow image or a NumPy array")
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or image.size == 0:
        remedy = "; multiply values from 0 to 1 by 255 and round them" if image.dtype.kind == "f" else ""
        remedy += "; give one image at a time" if image.ndim == 4 else ""
        raise DataFileError(
            f"{what} is {image.dtype} of shape {image.shape}; expected uint8 from 0 to 255, RGB of shape (H, W, 3), "
            f"with alpha (H, W, 4), or grey (H, W){remedy}"
        )
    return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2) if channels == 1 else image[..., :3]


def image_size(path: Path) -> tuple[int, int]:
    """The (height, width) of the output of `read_image`, from the file header.

    Raises:
        DataFileError: The file is missing, or not a supported image.
    """
    try:
        with _open_file(path) as file, open_image(file, path) as image, decoding(path):
            is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # by 90 degrees
            # the size of a TIFF is rotated already
            return image.size if is_turned and image.format != "TIFF" else (image.height, image.width)
    except OSError as error:
        raise _refused(path, error) from error


def read_label(path: Path, in_color: bool = False) -> np.ndarray:
    """Reads the values of a label file; the indices, not the colours, of a palette image.

    Args:
        path: A lossless file of one channel (PNG, TIFF, GIF, BMP), of 16 or 32 bits only if no value exceeds 255.
        in_color: Whether the file may be a colour-coded label, with or without alpha, which is dropped.

    Returns:
        (H, W) uint8 values, with the EXIF orientation applied; (H, W, 3) uint8 RGB of a colour-coded label.

    Raises:
        LossyLabelError: The format is lossy.
        DataFileError: The file is missing, truncated, not a regular file, has several channels, pages or frames,
            floats, values above 255, or more pixels than `$HRSEG_MAX_PIXELS`.
        FileSystemError: Its file system was unavailable, after retries.
    """
    data = read_file(path)
    mode = _plain_png_mode(data)
    label = _decode_png(data, path, mode) if mode else _decode_indices(data, path)
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
    """Writes an image or a label as PNG, atomically; creates the folder.

    Args:
        path: With suffix `.png`.
        image: (H, W, 3) uint8 RGB, or (H, W) uint8.
    """
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".png", pixels)
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def images_below(folder: Path, suffix: str = "") -> dict[str, Path]:
    """Lists the image files below a folder; see `files_below`.

    Args:
        folder: May be missing.
        suffix: Ending of the file names, such as "_mask" (with any extension), "_mask.png" or ".jpg".

    Returns:
        The files by their path below the folder, without extension and suffix, sorted.

    Raises:
        DataFileError: Two files differ only in their extension.
    """
    found: dict[str, Path] = {}
    for path in files_below(folder):
        ending = suffix if suffix.lower().endswith(IMAGE_SUFFIXES) else suffix + path.suffix
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.name.endswith(ending):
            continue
        stem = path.relative_to(folder).as_posix().removesuffix(ending)
        if stem in found:
            raise DataFileError(f"{found[stem]} and {path} have the same name; expected one file, remove the other")
        found[stem] = path
    return dict(sorted(found.items()))


def read_file(path: Path) -> bytes:
    """Reads the bytes of a file, with retries while its file system, such as a network share, is unavailable.

    Raises:
        DataFileError: The file is missing, not a regular file, or larger than any image of `$HRSEG_MAX_PIXELS`.
        FileSystemError: Its file system is still unavailable.
    """
    pauses = iter(_PAUSES)
    while True:
        try:
            with _open_file(path) as file:
                return file.read()
        except OSError as error:
            if error.errno not in _FILE_SYSTEM_AWAY:
                raise _refused(path, error) from error
            pause = next(pauses, None)
            if pause is None:
                raise FileSystemError(
                    f"{path} cannot be read: {error.strerror}, {len(_PAUSES) + 1} times within {sum(_PAUSES)} s; is "
                    "its file system still there? Repeat the command once it is"
                ) from error
            _log.warning("%s cannot be read: %s; trying again in %d s", path, error.strerror, pause)
            time.sleep(pause)


def _open_file(path: Path) -> BinaryIO:
    """Opens a regular file; refuses pipes and devices, which may block."""
    most = _BYTES_PER_PIXEL * max_pixels() + _BYTES_OF_METADATA
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK))  # noqa: SIM115
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= most:
        return file
    file.close()
    if not stat.S_ISREG(status.st_mode):
        raise DataFileError(f"{path} is a named pipe, a device or a socket; expected a regular file")
    raise DataFileError(
        f"{path} has {status.st_size} bytes, more than an image of {max_pixels()} pixels; set {MAX_PIXELS_VARIABLE} if "
        "it is one"
    )


def _refused(path: Path, error: OSError) -> DataFileError:
    return DataFileError(f"{path} cannot be read: {error.strerror or error}")


def _decode(data: bytes, flags: int, path: Path) -> np.ndarray:
    try:
        decoded: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise (too_large if error.code == cv2.Error.StsNoMem else unreadable)(path) from error
    if decoded is None:
        raise unreadable(path)
    return decoded


def _decode_png(data: bytes, path: Path, mode: str) -> np.ndarray:
    """Decodes an 8-bit PNG with the channels of `mode` ("rgb" or "mono")."""
    width, height = struct.unpack_from(">II", data, 16)
    require_size(path, height, width)
    if decode_image_png_u8 is not None:
        try:
            image: np.ndarray = decode_image_png_u8(data, (height, width), mode)
        except Exception as error:  # truncated and corrupt files raise errors of no common class
            raise unreadable(path) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise too_large(path) from None  # Rust panics if NumPy cannot allocate; its error cannot be pickled
        return image if mode == "rgb" else image[..., 0]
    return _decode(data, cv2.IMREAD_COLOR_RGB if mode == "rgb" else cv2.IMREAD_GRAYSCALE, path)


def _plain_png_mode(data: bytes) -> str | None:
    """The mode for `_decode_png`, "rgb" or "mono"; None if it does not support the file."""
    if not data.startswith(_PNG_SIGNATURE + b"\0\0\0\rIHDR") or len(data) < 33 or data[24] != 8:
        return None
    if zlib.crc32(data[12:29]) != struct.unpack_from(">I", data, 29)[0]:
        return None
    # orientation and animation chunks; a chance occurrence of their names is harmless
    before, after = data[: data.find(b"IDAT")], data[data.rfind(b"IDAT") :]
    if b"acTL" in before or b"eXIf" in before or b"eXIf" in after:
        return None
    return {_PNG_GREY: "mono", _PNG_RGB: "rgb"}.get(data[25])


def _decode_indices(data: bytes, path: Path) -> np.ndarray:
    """Decodes with Pillow, which, unlike OpenCV, keeps palette indices."""
    with open_image(io.BytesIO(data), path, as_label=True) as image:
        if image.format in _LOSSY or image.info.get("compression") in _LOSSY_COMPRESSION:
            raise LossyLabelError(
                f"{path} is a {image.format} whose compression changes labels; expected a PNG with one channel. "
                "`hrseg verify --guess ROOT --snap FOLDER` writes the masks of a folder as PNG without the noise"
            )
        bits = data[24] if image.format == "PNG" else getattr(image, "tag_v2", {}).get(258, (8,))[0]
        with decoding(path, image):
            ImageOps.exif_transpose(image, in_place=True)
            # GIF has no greyscale: the values are the entries of a grey palette, in any order
            label = np.asarray(image.convert("L") if image.format == "GIF" and _is_grey(image) else image)
        if image.mode == "L" and bits in (2, 4):  # Pillow stretches these to 0-255
            label = label // (255 // (2**bits - 1))
    return label


def _is_grey(image: Image.Image) -> bool:
    palette = np.array(image.getpalette("RGB") or []).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    """Decodes with Pillow."""
    if image.mode.startswith("I;16"):
        return np.repeat(_deep_grey(image, path)[..., None], 3, axis=2)
    if image.mode not in _COLOR_MODES:
        what = f"{path} has Pillow's mode {image.mode}"
        if image.mode in ("I", "F"):
            raise DataFileError(f"{what}, whose range is not stated; expected 8 bits, such as mode L or RGB")
        raise DataFileError(f"{what}; expected grey or colours as shown, such as mode L or RGB: convert it")
    with decoding(path, image):
        upright = ImageOps.exif_transpose(image)
        return np.array(upright.convert(_COLOR_MODES[image.mode]).convert("RGB"))


def _deep_grey(image: Image.Image, path: Path) -> np.ndarray:
    """Converts 16-bit grey to (H, W) uint8."""
    with decoding(path, image):
        values = np.asarray(ImageOps.exif_transpose(image))
        tags = getattr(image, "tag_v2", {})
        ranges = [[float(np.min(tags[tag])) for tag in pair] for pair in _RANGE_TAGS if tags.keys() >= {*pair}]
    if image.format == "PNG":
        return _to_eight_bits(values, path)
    for low, high in ranges:
        if low < high:
            scaled = (values.astype(np.float32) - low) * (255 / (high - low))
            return scaled.clip(0, 255).round().astype(np.uint8)
    raise DataFileError(
        f"{path} has 1 band of 16-bit grey whose range is not stated; expected the tags SMinSampleValue and "
        "SMaxSampleValue of a TIFF, or 8 bits: convert it with the range that matters"
    )


def _to_eight_bits(values: np.ndarray, path: Path) -> np.ndarray:
    """Converts the values of a 16-bit PNG to uint8, unless the result would be nearly black."""
    brightest = int(values.max())
    if 0 < brightest < _MIN_BRIGHTEST:
        raise DataFileError(
            f"{path} has 16 bits and no value above {brightest}, which is nearly black where 65535 is white; scale it "
            "from the range that matters to 8 bits"
        )
    return (values >> 8).astype(np.uint8)
