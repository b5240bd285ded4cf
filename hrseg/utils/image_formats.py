"""Headers of image files: format, size, bands and pages, checked before decoding."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from hrseg.errors import ConfigError, DataFileError, HrsegError

MAX_PIXELS_VARIABLE = "HRSEG_MAX_PIXELS"

_VERSION = 2  # incremented when the same file gives other pixels or errors, which invalidates caches

_DEFAULT_MAX_PIXELS = 2**28  # 16384 x 16384: ten times the largest tiles of aerial data sets
_MOST_PIXELS = 2**30  # OpenCV's limit
_ANIMATED = ("PNG", "GIF", "WEBP", "AVIF")  # formats that may hold several frames
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "AVIF", "JPEG2000")

# TIFF tags
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES = 254, 256, 257, 258, 262, 277
_EXTRA_SAMPLES, _SAMPLE_FORMAT = 338, 339
# the tags that are read, with their defaults
_TAGS: dict[int, tuple[int, ...]] = {_WIDTH: (0,), _HEIGHT: (0,), _BITS: (1,), _PHOTOMETRIC: (0,), _SAMPLES: (1,)}
_TAGS |= {_SAMPLE_FORMAT: (1,), _EXTRA_SAMPLES: ()}
_NO_PAGE = 1 | 4  # bits of the subfile type: a smaller version of another page, or its transparency mask
_KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}
_COLOR_BANDS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # of grey, grey, RGB, palette, CMYK and YCbCr
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = 0, 1, 2, 3
# extra samples: none, or alpha, premultiplied or not; 0 is unspecified, such as near infrared
_ALPHA: tuple[tuple[int, ...], ...] = ((), (1,), (2,))
_MAX_PAGES, _MAX_BANDS = 1000, 65535  # up to which they are counted

_pillow_lock = threading.Lock()


class TiffLayout(NamedTuple):
    """The pixel layout of a TIFF.

    Args:
        bits: Bits of each band.
        kinds: Sample format of each band: 1 unsigned, 2 signed, 3 floats.
        photometric: The tag PhotometricInterpretation.
        extra_samples: The tag ExtraSamples.
    """

    bits: tuple[int, ...]
    kinds: tuple[int, ...]
    photometric: int
    extra_samples: tuple[int, ...]

    def __str__(self) -> str:
        kind = _KINDS.get(max(self.kinds), "unknown numbers")
        bits = "/".join(map(str, sorted(set(self.bits))))
        return f"{len(self.bits)} band{'s' * (len(self.bits) > 1)} of {bits}-bit {kind}"

    def is_image(self) -> bool:
        """Whether it is grey of 16 bits or fewer, or palette, RGB, CMYK or YCbCr, with or without alpha."""
        num_colors = _COLOR_BANDS.get(self.photometric)
        is_deep_grey = self._is_single_band(16) and self.photometric == _BLACK_IS_ZERO
        return (
            set(self.kinds) == {1}
            and self.extra_samples in _ALPHA
            and len(self.bits) - len(self.extra_samples) == num_colors
            and (set(self.bits) == {8} or self._is_single_band(1, 2, 4) or is_deep_grey)
        )

    def is_label(self) -> bool:
        """Whether it is one band of integers, or an 8-bit picture in RGB with or without alpha."""
        is_index = self._is_single_band(1, 2, 4, 8, 16, 32) and set(self.kinds) <= {1, 2}
        return (is_index and self.photometric in (_BLACK_IS_ZERO, _PALETTE)) or (
            self.is_image() and self.photometric == _RGB
        )

    def _is_single_band(self, *bits: int) -> bool:
        return len(self.bits) == 1 and self.bits[0] in bits


def max_pixels() -> int:
    """Maximum number of pixels of an image or label: `$HRSEG_MAX_PIXELS`, or 268,435,456 (16384 x 16384).

    Raises:
        ConfigError: The variable is not a number, or out of range.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if not text:
        return _DEFAULT_MAX_PIXELS
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) <= _MOST_PIXELS):
        raise ConfigError(
            f"{MAX_PIXELS_VARIABLE} is {text!r}; expected a number of pixels from 1 to {_MOST_PIXELS}, "
            f"such as {_DEFAULT_MAX_PIXELS}"
        )
    return int(text)


def reading_settings() -> list[int]:
    """What the result of reading a file depends on besides the file; part of the key of caches."""
    return [_VERSION, max_pixels()]


def require_size(path: Path, height: int, width: int) -> None:
    """Raises a `DataFileError` if an image has more pixels than `max_pixels`."""
    if height * width > max_pixels():
        raise DataFileError(
            f"{path} has {height}x{width} pixels (height x width), more than the {max_pixels()} that are decoded; cut "
            f"it into tiles, or set {MAX_PIXELS_VARIABLE} if it is no decompression bomb"
        )


def open_image(file: BinaryIO, path: Path, as_label: bool = False) -> ImageFile.ImageFile:
    """Opens an image with Pillow without decoding it.

    Args:
        file: Its content, positioned at the start.
        path: For messages.
        as_label: Whether it is a label, which may have other bit depths than an image.

    Returns:
        The image, in a format of `hrseg.utils.images.IMAGE_SUFFIXES`, whatever the file's name.

    Raises:
        DataFileError: It is not such an image, has more pixels than `max_pixels`, several pages or frames, or is a TIFF
            with unsupported bands.
    """
    name = _format_of(file.read(16))
    if name is None:
        raise unreadable(path)
    file.seek(0)
    if name == "TIFF":
        _check_tiff(file, path, as_label)
        file.seek(0)
    with decoding(path):
        image: ImageFile.ImageFile = Image.OPEN[name][0](file, "")  # as Image.open, without its limit
        num_frames = getattr(image, "n_frames", 1) if name in _ANIMATED else 1
    if num_frames > 1:
        raise DataFileError(f"{path} is an animation of {num_frames} frames; expected one. Save the frames as files")
    require_size(path, image.height, image.width)
    return image


@contextmanager
def decoding(path: Path, image: Image.Image | None = None) -> Iterator[None]:
    """Converts Pillow's exceptions to a `DataFileError`; with `image`, lifts Pillow's own size limit."""
    try:
        with _without_limit(image) if image is not None else nullcontext():
            yield
    except (MemoryError, Image.DecompressionBombError) as error:
        raise too_large(path) from error
    except Exception as error:  # damaged files raise errors of no common class
        if isinstance(error, HrsegError) or (isinstance(error, OSError) and error.errno is not None):
            raise  # Pillow's own OSErrors have no errno
        raise unreadable(path) from error


def unreadable(path: Path) -> DataFileError:
    """The error for a file that cannot be decoded."""
    return DataFileError(f"{path} is truncated or no image that can be read; copy or extract the file again")


def too_large(path: Path) -> DataFileError:
    """The error for an image that does not fit into memory."""
    return DataFileError(f"{path} is too large for the available memory; cut it into tiles")


def _check_tiff(file: BinaryIO, path: Path, as_label: bool) -> None:
    layout, num_pages = read_tiff_layout(file, path)
    if num_pages != 1:
        raise DataFileError(f"{path} has {num_pages} pages of {layout}; expected one page. Save each page as a file")
    if as_label and layout.photometric == _WHITE_IS_ZERO:
        raise DataFileError(
            f"{path} has {layout} of which 0 is white, which decoders invert; expected class ids of which 0 is black "
            "(the tag PhotometricInterpretation): save it as PNG, and check which number is which class"
        )
    if as_label and not layout.is_label():
        raise DataFileError(f"{path} has {layout}; expected one band of class ids from 0 to 255, as integers")
    if not as_label and not layout.is_image():
        raise DataFileError(
            f"{path} has {layout}{' that are no colours' * (layout.extra_samples not in _ALPHA)}; expected 8-bit grey, "
            "RGB, or RGB with an alpha that the tag ExtraSamples declares; convert it to grey or RGB"
        )


def read_tiff_layout(file: BinaryIO, path: Path) -> tuple[TiffLayout, int]:
    """Reads the layout of the first page of a TIFF and the number of pages, not counting overviews and masks.

    Raises:
        DataFileError: The tags cannot be read, or the page has more pixels than `max_pixels`.
    """
    with decoding(path):
        header = file.read(8)
        tags = ImageFileDirectory_v2(header + file.read(8) if header[2] == 43 else header)
        first: dict[int, tuple[int, ...]] = {}
        offsets: set[int] = set()
        num_pages = 0
        while tags.next and tags.next not in offsets and len(offsets) < _MAX_PAGES:
            offsets.add(tags.next)
            file.seek(tags.next)
            tags.load(file)
            # decoders read the first page; if it is an overview, the actual image is another page
            if not first or not _integers(tags, _SUBFILE_TYPE, 0)[0] & _NO_PAGE:
                num_pages += 1
            first = first or {tag: _integers(tags, tag, *default) for tag, default in _TAGS.items()}
        num_bands, bits, kinds = min(first[_SAMPLES][0], _MAX_BANDS), first[_BITS], first[_SAMPLE_FORMAT]
        if num_bands < 1 or not bits or not kinds:
            raise ValueError("no bands")
        layout = TiffLayout(
            bits * num_bands if len(bits) == 1 else bits[:num_bands],
            kinds * num_bands if len(kinds) == 1 else kinds[:num_bands],
            first[_PHOTOMETRIC][0],
            first[_EXTRA_SAMPLES],
        )
        height, width = first[_HEIGHT][0], first[_WIDTH][0]
    require_size(path, height, width)
    return layout, num_pages


@contextmanager
def _without_limit(image: Image.Image) -> Iterator[None]:
    """Lifts Pillow's own size limit while an image within `max_pixels` is decoded."""
    if image.width * image.height <= (Image.MAX_IMAGE_PIXELS or image.width * image.height):
        yield
        return
    with _pillow_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _format_of(prefix: bytes) -> str | None:
    """The supported format whose files have this prefix."""
    for load_plugins in (Image.preinit, Image.init):
        load_plugins()
        for name in _FORMATS:
            _, accept = Image.OPEN.get(name, (None, None))
            if accept and accept(prefix) is True:
                return name
    return None


def _integers(tags: ImageFileDirectory_v2, tag: int, *default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(map(int, value if isinstance(value, tuple) else (value,)))
