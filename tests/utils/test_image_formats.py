"""Images of all formats: what is read, and what is refused in one line before decoding."""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hrseg.errors import ConfigError, DataFileError
from hrseg.utils.images import as_rgb, image_size, read_image, read_label

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
GREY, RGB = 1, 2


def tiff(
    pixels: np.ndarray,
    photometric: int,
    extra: Sequence[int] = (),
    num_pages: int = 1,
    more: Sequence[tuple[int, int]] = (),
    subfile_types: Sequence[int] = (),
) -> bytes:
    """An uncompressed TIFF of (H, W, bands), as no library at hand writes all of them; `more` are tags of type long."""
    height, width, bands = pixels.shape
    kind = {"u": UNSIGNED, "i": SIGNED, "f": FLOAT}[pixels.dtype.kind]
    data = b"II*\0"
    offset = 8
    body = b""
    for page in range(num_pages):
        lists = [[pixels.itemsize * 8] * bands, [kind] * bands, list(extra)]
        places = []
        for values in lists:
            places.append(offset + len(body))
            body += struct.pack(f"<{len(values)}H", *values) + b"\0" * (4 if len(values) < 2 else 0)
        strip = offset + len(body)
        body += pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        entries = {
            254: (4, 1, subfile_types[page] if subfile_types else 0),
            256: (4, 1, width),
            257: (4, 1, height),
            258: (3, bands, places[0]),
            259: (3, 1, 1),
            262: (3, 1, photometric),
            273: (4, 1, strip),
            277: (3, 1, bands),
            278: (4, 1, height),
            279: (4, 1, pixels.nbytes),
            339: (3, bands, places[1]),
            **({338: (3, len(extra), places[2])} if extra else {}),
            **{tag: (4, 1, value) for tag, value in more},
        }
        ifd = struct.pack("<H", len(entries))
        for tag, (kind_of_tag, count, value) in sorted(entries.items()):
            if kind_of_tag == 3 and 1 <= count <= 2 and tag in (258, 338, 339):  # short lists stand in the entry
                value = {258: lists[0], 339: lists[1], 338: lists[2]}[tag]
                ifd += struct.pack("<HHI", tag, 3, count) + struct.pack(f"<{count}H", *value).ljust(4, b"\0")
            else:
                ifd += struct.pack("<HHII", tag, kind_of_tag, count, value)
        start = offset + len(body)
        data += struct.pack("<I", start)
        is_last = page == num_pages - 1
        data += body + ifd
        offset = start + len(ifd) + 4
        body = b""
        if is_last:
            data += struct.pack("<I", 0)
    return data


def smooth(bands: int, dtype: type = np.uint8, factor: float = 1) -> np.ndarray:
    y, x = np.mgrid[:6, :9]
    return np.stack([(15 * x + 7 * y + 31 * band) * factor for band in range(bands)], axis=-1).astype(dtype)


REFUSED = {
    "RGB and near infrared": (tiff(smooth(4), RGB, [0]), r"4 bands of 8-bit unsigned integers that are no colours"),
    "RGB and a band of which nothing is said": (tiff(smooth(4), RGB), "4 bands of 8-bit unsigned integers; expected"),
    "uint16 RGB": (tiff(smooth(3, np.uint16, 9), RGB), "3 bands of 16-bit unsigned integers; expected 8-bit"),
    "three grey bands": (tiff(smooth(3), GREY, [0, 0]), "3 bands of 8-bit unsigned integers that are no colours"),
    "12 bands": (tiff(smooth(12, np.int16), GREY, [0] * 11), "12 bands of 16-bit signed integers"),
    "floats": (tiff(smooth(1, np.float32), GREY), "1 band of 32-bit floats"),
    "RGB floats": (tiff(smooth(3, np.float32), RGB), "3 bands of 32-bit floats"),
    "int16 grey": (tiff(smooth(1, np.int16), GREY), "1 band of 16-bit signed integers"),
    "16-bit grey of unknown range": (
        tiff(smooth(1, np.uint16), GREY),
        "1 band of 16-bit grey whose range is not stated",
    ),
    "a thumbnail before the image": (tiff(smooth(3), RGB, num_pages=2, subfile_types=[1, 0]), "2 pages of 3 bands"),
    "pages": (tiff(smooth(1), GREY, num_pages=3), "3 pages of 1 band of 8-bit unsigned integers; expected one page"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tiffs_of_unsupported_bands_are_refused(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, message = REFUSED[case]
    path = tmp_path / "scene.tif"
    path.write_bytes(data)
    with pytest.raises(DataFileError, match=rf"scene\.tif has {message}") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # no lines of OpenCV's or Pillow's


@pytest.mark.parametrize("number", [0, 2**32 - 1])
def test_a_tiff_of_no_or_of_countless_bands_is_refused(number: int, tmp_path: Path) -> None:
    data = tiff(smooth(3), RGB).replace(struct.pack("<HHII", 277, 3, 1, 3), struct.pack("<HHII", 277, 4, 1, number))
    (tmp_path / "scene.tif").write_bytes(data)
    with pytest.raises(DataFileError, match=r"scene\.tif (is truncated|has 65535 bands)"):
        read_image(tmp_path / "scene.tif")


def test_tiffs_of_colours_are_read(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    for data in (tiff(smooth(3), RGB), tiff(smooth(4), RGB, [2])):
        path.write_bytes(data)
        np.testing.assert_array_equal(read_image(path), smooth(3))
    path.write_bytes(tiff(smooth(4), RGB, [1]))  # premultiplied
    assert read_image(path).shape == (6, 9, 3)
    for data in (tiff(smooth(1), GREY), tiff(smooth(2), GREY, [2])):
        path.write_bytes(data)
        np.testing.assert_array_equal(read_image(path), np.repeat(smooth(1), 3, axis=2))
    path.write_bytes(tiff(smooth(3), RGB, num_pages=3, subfile_types=[0, 1, 4]))  # overview and mask
    np.testing.assert_array_equal(read_image(path), smooth(3))


@pytest.mark.parametrize("tags", [((340, 100), (341, 1120)), ((280, 100), (281, 1120))])
def test_sixteen_bit_grey_is_scaled_from_the_range_that_it_states(
    tags: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    values = np.array([[[0], [100], [610], [1120], [2000]]], np.uint16)
    (tmp_path / "deep.tif").write_bytes(tiff(values, GREY, more=tags))
    image = read_image(tmp_path / "deep.tif")
    assert image[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert (image == image[..., :1]).all()


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 3), (8, 9, 4)])
def test_a_png_of_twelve_bits_in_sixteen_is_not_read_as_nearly_black(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "microscope.png"
    full = np.linspace(0, 65535, int(np.prod(shape))).astype(np.uint16).reshape(shape)
    cv2.imwrite(str(path), full >> 4)
    with pytest.raises(
        DataFileError, match=r"microscope\.png has 16 bits and no value above 40[89]\d, which is nearly black"
    ):
        read_image(path)
    cv2.imwrite(str(path), full)
    expected = (full >> 8).astype(np.uint8)
    expected = np.repeat(expected[..., None], 3, 2) if full.ndim == 2 else expected[..., 2::-1]
    np.testing.assert_array_equal(read_image(path), expected)
    cv2.imwrite(str(path), np.zeros_like(full))  # black is black
    assert not read_image(path).any()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PICTURE = Image.fromarray(smooth(3))
ANIMATION = [PICTURE, Image.fromarray(255 - smooth(3))]
PICTURES = {
    "CMYK JPEG": saved(PICTURE.convert("CMYK"), "JPEG", quality=100),
    "CMYK TIFF": saved(PICTURE.convert("CMYK"), "TIFF"),
    "JPEG in a TIFF": saved(PICTURE, "TIFF", compression="jpeg", quality=100),
    "palette TIFF": saved(PICTURE.quantize(64), "TIFF"),
    "palette BMP": saved(PICTURE.quantize(64), "BMP"),
    "palette GIF": saved(PICTURE.quantize(64), "GIF"),
    "palette PNG with transparency": saved(PICTURE.quantize(64), "PNG", transparency=bytes(range(64))),
    "lossless WebP with alpha": saved(PICTURE.convert("RGBA"), "WEBP", lossless=True),
    "PNG with alpha": saved(PICTURE.convert("RGBA"), "PNG"),
    "several pictures in a JPEG": saved(PICTURE, "MPO", save_all=True, append_images=[PICTURE], quality=100),
    "JPEG 2000": saved(PICTURE, "JPEG2000"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_images_of_every_kind_are_read(case: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"  # the suffix does not count
    path.write_bytes(PICTURES[case])
    lossy = 25 if "JPEG" in case or "palette" in case else 0
    assert np.abs(read_image(path).astype(int) - smooth(3)).max() <= lossy
    with Image.open(path) as image:
        assert np.abs(as_rgb(image).astype(int) - smooth(3)).max() <= lossy
    assert image_size(path) == (6, 9)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_one_bit_images_are_black_and_white(kind: str, tmp_path: Path) -> None:
    drawn = smooth(1)[..., 0] > 60
    (tmp_path / "page").write_bytes(saved(Image.fromarray(drawn), kind))
    np.testing.assert_array_equal(read_image(tmp_path / "page"), np.repeat(drawn[..., None] * np.uint8(255), 3, 2))
    np.testing.assert_array_equal(read_label(tmp_path / "page"), drawn)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("read", [read_image, read_label, image_size])
def test_animations_and_pages_are_refused(kind: str, read: object, tmp_path: Path) -> None:
    path = tmp_path / "moving"
    path.write_bytes(saved(ANIMATION[0], kind, save_all=True, append_images=ANIMATION[1:]))
    with pytest.raises(DataFileError, match=r"moving (is an animation of 2 frames|has 2 pages of 3 bands)"):
        read(path)  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_in_every_format(kind: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "turned"
    exif = Image.Exif()
    exif[0x112] = orientation
    jpeg = tmp_path / "turned.jpg"
    PICTURE.save(jpeg, exif=exif, quality=100)
    try:
        path.write_bytes(saved(PICTURE, kind, exif=exif, **({"quality": 100} if kind != "TIFF" else {})))
    except KeyError:
        pytest.skip(f"this Pillow writes no {kind}")
    assert read_image(path).shape == read_image(jpeg).shape
    assert np.abs(read_image(path).astype(int) - read_image(jpeg)).max() <= 40
    assert image_size(path) == read_image(path).shape[:2]
    with Image.open(path) as image:
        np.testing.assert_allclose(as_rgb(image), read_image(path), atol=8)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_label_is_turned_as_its_image_is(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    (tmp_path / "label").write_bytes(saved(Image.fromarray(smooth(1)[..., 0]), kind, exif=exif))
    np.testing.assert_array_equal(read_label(tmp_path / "label"), read_image(tmp_path / "label")[..., 0])


def test_gif_masks_are_read(tmp_path: Path, shared_data: Path) -> None:
    label = smooth(1)[..., 0] // 16
    image = Image.fromarray(label)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 48).tolist())
    image.save(tmp_path / "mask.gif")
    np.testing.assert_array_equal(read_label(tmp_path / "mask.gif"), label)


def test_genuine_gif_masks_are_read(shared_data: Path) -> None:
    mask = read_label(min((shared_data / "own" / "retina_gif").rglob("*.gif")))
    assert mask.shape == (584, 565)
    assert np.unique(mask).tolist() == [0, 255]


LABELS_REFUSED = {
    "floats": (tiff(smooth(1, np.float32), GREY), "1 band of 32-bit floats; expected one band of class ids"),
    "pages": (tiff(smooth(1), GREY, num_pages=5), "5 pages of 1 band of 8-bit unsigned integers; expected one page"),
    "12 bands": (tiff(smooth(12), GREY, [0] * 11), "12 bands of 8-bit unsigned integers; expected one band"),
    "near infrared": (tiff(smooth(4), RGB, [0]), "4 bands of 8-bit unsigned integers; expected one band"),
    "white is 0": (tiff(smooth(1), 0), "1 band of 8-bit unsigned integers of which 0 is white"),
    "negative": (tiff(-smooth(1, np.int16), GREY), "holds values from -"),
    "JPEG in a TIFF": (saved(Image.fromarray(smooth(1)[..., 0]), "TIFF", compression="jpeg"), "whose compression"),
}


@pytest.mark.parametrize("case", LABELS_REFUSED)
def test_labels_that_would_lose_classes_are_refused(case: str, tmp_path: Path) -> None:
    data, message = LABELS_REFUSED[case]
    (tmp_path / "mask.tif").write_bytes(data)
    with pytest.raises(DataFileError, match=rf"mask\.tif .*{message}"):
        read_label(tmp_path / "mask.tif", in_color=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_tiff_labels_of_all_integers_are_read(dtype: type, tmp_path: Path) -> None:
    (tmp_path / "mask.tif").write_bytes(tiff(smooth(1, dtype), GREY))
    np.testing.assert_array_equal(read_label(tmp_path / "mask.tif"), smooth(1)[..., 0])


def bomb(kind: str) -> bytes:
    """A small file whose header claims 400 megapixels."""
    if kind == "TIFF":
        return tiff(smooth(1), GREY).replace(
            struct.pack("<HHII", 256, 4, 1, 9), struct.pack("<HHII", 256, 4, 1, 80 << 20)
        )
    data = bytearray(saved(PICTURE.convert("P" if kind in ("GIF", "palette PNG") else "RGB"), kind.split()[-1]))
    if kind.endswith("PNG"):
        data[16:24] = struct.pack(">II", 20_000, 20_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", 20_000, 20_000)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", 20_000, 20_000)
    else:
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 20_000, 20_000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "palette PNG", "TIFF", "GIF", "BMP", "JPEG"])
@pytest.mark.parametrize("read", [read_image, read_label, image_size])
def test_decompression_bombs_are_refused_by_their_header(kind: str, read: object, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(bomb(kind))
    with pytest.raises(DataFileError, match=r"bomb has \d+x\d+ pixels .*, more than the 268435456 .* HRSEG_MAX_PIXELS"):
        read(tmp_path / "bomb")  # type: ignore[operator]


def test_the_limit_of_pixels_is_one_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in ("png", "jpg", "tif", "gif"):
        PICTURE.convert("L").save(tmp_path / f"image.{suffix}")
        monkeypatch.setenv("HRSEG_MAX_PIXELS", "54")
        assert read_image(tmp_path / f"image.{suffix}").shape == (6, 9, 3)
        monkeypatch.setenv("HRSEG_MAX_PIXELS", "53")
        with pytest.raises(DataFileError, match=r"has 6x9 pixels .*, more than the 53"):
            read_image(tmp_path / f"image.{suffix}")
    for bad in ("many", "0", "-5", "1e9", "9" * 5000, "²"):
        monkeypatch.setenv("HRSEG_MAX_PIXELS", bad)
        with pytest.raises(
            ConfigError, match=r"HRSEG_MAX_PIXELS is .*; expected a number of pixels from 1 to 1073741824"
        ):
            read_image(tmp_path / "image.png")


def test_palette_masks_above_the_limit_of_pillow_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for kind in ("PNG", "TIFF", "GIF"):
        (tmp_path / "mask").write_bytes(saved(PICTURE.quantize(8), kind))
        with warnings.catch_warnings(action="error"):
            assert read_label(tmp_path / "mask").shape == (6, 9)
            assert read_image(tmp_path / "mask").shape == (6, 9, 3)
        assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("read", [read_image, read_label, image_size])
def test_pipes_devices_and_folders_are_refused_at_once(read: object, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name, message in {
        "pipe": "is a named pipe, a device or a socket; expected a regular file",
        "device": "is a named pipe, a device or a socket; expected a regular file",
        "folder": "cannot be read: Is a directory",
    }.items():
        with pytest.raises(DataFileError, match=rf"{name}\.png {message}"):
            read(tmp_path / f"{name}.png")  # type: ignore[operator]


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)  # holes only
    with pytest.raises(
        DataFileError, match=r"huge\.png has 1099511627776 bytes, more than an image of 268435456 pixels"
    ):
        read_image(tmp_path / "huge.png")


def damaged(seed: int, kind: str, data: bytes) -> bytes:
    """A file with a cut, changed bytes of its header or all of it, or a piece missing."""
    rng = np.random.default_rng([seed, len(data)])
    damage = bytearray(data)
    if seed % 3 == 0:
        return bytes(damage[: rng.integers(len(data))])
    if seed % 3 == 1:
        for position in rng.integers(0, min(len(data), 100 if seed % 2 else 10**9), 3):
            damage[position] = rng.integers(256)
        return bytes(damage)
    start, length = rng.integers(0, len(data)), rng.integers(1, 40)
    return bytes(damage[:start] + damage[start + length :])


FUZZED = {**PICTURES, "TIFF": tiff(smooth(3), RGB), "PNG": saved(PICTURE, "PNG"), "BMP": saved(PICTURE, "BMP")}


@pytest.mark.parametrize("case", FUZZED)
def test_damaged_files_are_read_or_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRSEG_MAX_PIXELS", "1000000")
    path = tmp_path / "damaged"
    for seed in range(24):
        path.write_bytes(damaged(seed, case, FUZZED[case]))
        for read in (read_image, read_label, image_size):
            try:
                read(path)  # type: ignore[operator]
            except DataFileError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_a_panic_of_the_decoder_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """Like that of pyo3_runtime, which is no Exception and cannot be pickled."""

    def panic(*arguments: object) -> None:
        raise PanicException("PyObject pointer is null")

    monkeypatch.setattr("hrseg.utils.images.decode_image_png_u8", panic)
    PICTURE.save(tmp_path / "image.png")
    with pytest.raises(DataFileError, match=r"image\.png is too large for the available memory") as caught:
        read_image(tmp_path / "image.png")
    assert caught.value.__cause__ is None  # a worker sends the error to the main process


def test_a_png_whose_header_is_cut_does_not_reach_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size would be read from other bytes, and memory taken for it."""
    monkeypatch.setattr("hrseg.utils.images.decode_image_png_u8", lambda *arguments: pytest.fail("decoded"))
    data = saved(PICTURE, "PNG")
    for start in range(8, 33):
        (tmp_path / "cut.png").write_bytes(data[:start] + data[start + 3 :])
        with pytest.raises(DataFileError, match=r"cut\.png (is truncated|has \d+x\d+ pixels)"):
            read_image(tmp_path / "cut.png")


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    data = saved(PICTURE, "PNG")
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return data[:33] + body + data[33:]


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"Comment\0" + b"x" * 20_000_000),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 100_000_000)),
        (b"iCCP", b"profile\0\0" + zlib.compress(b"x" * 100_000_000)),
        (b"eXIf", b"MM\0*" + b"\xff" * 1_000_000),
        (b"prVt", b"x" * 20_000_000),
    ],
    ids=["text", "compressed text", "profile", "exif", "private"],
)
def test_huge_chunks_beside_the_pixels_do_no_harm(chunk: tuple[bytes, bytes], tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(png_with(chunk))
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), smooth(3))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
def test_images_of_one_pixel_a_side_are_read(size: tuple[int, int], tmp_path: Path) -> None:
    grey = Image.fromarray(np.full(size, 3, np.uint8))
    for suffix in ("png", "jpg", "tif", "gif", "bmp", "webp", "jp2"):
        grey.convert("RGB" if suffix in ("jpg", "webp") else "L").save(tmp_path / f"image.{suffix}")
        assert read_image(tmp_path / f"image.{suffix}").shape == (*size, 3)
        assert image_size(tmp_path / f"image.{suffix}") == size
        if suffix in ("png", "tif", "gif", "bmp"):
            np.testing.assert_array_equal(read_label(tmp_path / f"image.{suffix}"), np.full(size, 3))


def test_a_tiff_whose_pages_form_a_loop_ends(tmp_path: Path) -> None:
    data = bytearray(tiff(smooth(1), GREY))
    data[-4:] = data[4:8]
    (tmp_path / "loop.tif").write_bytes(data)
    thread = threading.Thread(target=read_image, args=(tmp_path / "loop.tif",), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


IN_MEMORY = {
    "grey": (smooth(1)[..., 0], 0),
    "grey with an axis": (smooth(1), 0),
    "RGB": (smooth(3), 0),
    "RGBA": (smooth(4), 0),
    "PIL grey": (Image.fromarray(smooth(1)[..., 0]), 0),
    "PIL RGBA": (PICTURE.convert("RGBA"), 0),
    "PIL palette": (PICTURE.quantize(64), 25),
    "PIL CMYK": (PICTURE.convert("CMYK"), 1),
}


@pytest.mark.parametrize("case", IN_MEMORY)
def test_images_in_memory_become_rgb(case: str) -> None:
    image, tolerance = IN_MEMORY[case]
    expected = np.repeat(smooth(1), 3, 2) if "grey" in case else smooth(3)
    np.testing.assert_allclose(as_rgb(image), expected, atol=tolerance)
    assert as_rgb(image).dtype == np.uint8


NOT_IN_MEMORY = {
    "floats": (smooth(3) / 255, "float64 .*; expected uint8 from 0 to 255.*; multiply values from 0 to 1 by 255"),
    "floats of 32 bits": (smooth(3, np.float32), "float32"),
    "uint16": (smooth(3, np.uint16), r"uint16 of shape \(6, 9, 3\); expected uint8"),
    "bool": (smooth(3) > 5, "bool"),
    "batch": (smooth(3)[None], r"shape \(1, 6, 9, 3\).*; give one image at a time"),
    "two channels": (smooth(2), r"shape \(6, 9, 2\)"),
    "channels first": (smooth(3).transpose(2, 0, 1), r"shape \(3, 6, 9\); expected .* \(H, W, 3\)"),
    "empty": (np.zeros((0, 9, 3), np.uint8), r"shape \(0, 9, 3\)"),
    "list": ([[1, 2]], "is a list; expected a path, a Pillow image or a NumPy array"),
    "PIL floats": (Image.fromarray(smooth(1, np.float32)[..., 0]), "mode F"),
    "PIL HSV": (
        Image.new("HSV", (8, 8)),
        "has Pillow's mode HSV; expected grey or colours as shown, such as mode L or RGB",
    ),
    "PIL LAB": (
        Image.new("LAB", (8, 8)),
        "has Pillow's mode LAB; expected grey or colours as shown, such as mode L or RGB",
    ),
    "PIL 16 bits": (Image.fromarray(smooth(1, np.uint16)[..., 0]), "range is not stated"),
}


@pytest.mark.parametrize("case", NOT_IN_MEMORY)
def test_other_arrays_are_refused_in_one_line(case: str) -> None:
    image, message = NOT_IN_MEMORY[case]
    with pytest.raises(DataFileError, match=message) as caught:
        as_rgb(image)
    assert re.search(r"^the image in memory ", str(caught.value))
    assert "\n" not in str(caught.value)
