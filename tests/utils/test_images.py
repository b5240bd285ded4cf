from __future__ import annotations

import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hrseg.errors import DataFileError, FileSystemError, OutputError
from hrseg.utils.images import IMAGE_SUFFIXES, image_size, images_below, read_image, read_label, write_image

LOSSLESS = [".png", ".bmp", ".tif", ".tiff"]


@pytest.fixture(params=["kornia_rs", "opencv"], autouse=True)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with the fast PNG decoder and without it."""
    if request.param == "opencv":
        monkeypatch.setattr("hrseg.utils.images.decode_image_png_u8", None)
    else:
        pytest.importorskip("kornia_rs")


def smooth(height: int, width: int) -> np.ndarray:
    """An RGB image that JPEG keeps within a few levels, with different channels and no symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 40 + 100 * x * y / (width * height)], axis=-1).astype(np.uint8)


def ids(height: int, width: int, number: int = 19) -> np.ndarray:
    return np.random.default_rng(0).integers(0, number, (height, width), dtype=np.uint8)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_format_reads_as_rgb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"street ü{suffix}"
    Image.fromarray(smooth(40, 60)).save(path, quality=95)
    image = read_image(path)
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - smooth(40, 60)).max() <= (0 if suffix in LOSSLESS else 16)


def test_greyscale_alpha_and_palette_images_become_three_channels(tmp_path: Path) -> None:
    rgb = smooth(20, 30)
    grey = rgb[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=100)
    Image.fromarray(np.dstack([rgb, 255 - grey])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([grey, 255 - grey])).save(tmp_path / "grey_alpha.png")
    palette = Image.fromarray(grey // 64)
    palette.putpalette([9, 8, 7, 30, 20, 10, 100, 150, 200, 255, 0, 1])
    palette.save(tmp_path / "palette.png")

    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.dstack([grey] * 3))
    assert np.abs(read_image(tmp_path / "grey.jpg").astype(int) - grey[..., None]).max() <= 2
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "grey_alpha.png"), np.dstack([grey] * 3))
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


def test_sixteen_bits_of_a_png_become_eight(tmp_path: Path) -> None:
    deep = smooth(20, 30).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "color.png"), deep[..., ::-1])
    cv2.imwrite(str(tmp_path / "grey.png"), deep[..., 1])
    np.testing.assert_array_equal(read_image(tmp_path / "color.png"), smooth(20, 30))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.dstack([smooth(20, 30)[..., 1]] * 3))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_rotation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = smooth(40, 60)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, quality=100, subsampling=0, exif=exif)
    image = read_image(path)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).max() <= 6


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.02, 0.5, 0.95, 0.998])
def test_truncated_images_are_named(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"street{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(DataFileError, match=f"street{suffix} is truncated or no image") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", [0.2, 0.5, 0.9])
def test_a_png_with_a_flipped_byte_is_refused(tmp_path: Path, position: float) -> None:
    path = tmp_path / "street.png"
    Image.fromarray(smooth(64, 64)).save(path)
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataFileError, match=r"street\.png"):
        read_image(path)


def test_files_that_are_missing_or_something_else_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"gone\.png cannot be read: No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(DataFileError, match="cannot be read: Is a directory"):
        read_image(tmp_path)
    (tmp_path / "page.png").write_text("<html>sign in to download</html>")
    for read in (read_image, read_label):
        with pytest.raises(DataFileError, match=r"page\.png is truncated or no image"):
            read(tmp_path / "page.png")


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_labels_read_as_they_are_on_disk(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(ids(20, 30, 256)).save(tmp_path / f"label{suffix}")
    label = read_label(tmp_path / f"label{suffix}")
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, ids(20, 30, 256))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("with_transparency", [False, True])
def test_palette_labels_give_indices_not_colors(tmp_path: Path, bits: int, with_transparency: bool) -> None:
    label = ids(21, 33, min(2**bits, 60))
    image = Image.fromarray(label)
    image.putpalette(np.random.default_rng(1).integers(0, 256, 3 * 2**bits).tolist())
    options = {"transparency": 0} if with_transparency else {}
    image.save(tmp_path / "label.png", bits=bits, **options)
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), label)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_greyscale_labels_of_few_bits_are_not_stretched(tmp_path: Path, bits: int) -> None:
    label = ids(21, 33, 2**bits)
    (tmp_path / "label.png").write_bytes(grey_png(label, bits))
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), label)


def grey_png(label: np.ndarray, bits: int) -> bytes:
    """A greyscale PNG of 1, 2 or 4 bits, which neither OpenCV nor Pillow writes in every case."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = label.shape
    planes = np.unpackbits(label[..., None], axis=-1)[..., 8 - bits :].reshape(height, width * bits)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in planes)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_sixteen_bit_labels_are_read_as_long_as_the_values_fit(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "label.png"), ids(20, 30).astype(np.uint16))
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), ids(20, 30))
    cv2.imwrite(str(tmp_path / "instances.png"), ids(20, 30).astype(np.uint16) * 1000)
    with pytest.raises(DataFileError, match=r"instances\.png holds values from 0 to 18000; expected 0-255"):
        read_label(tmp_path / "instances.png")


def test_labels_in_color_or_jpeg_are_refused(tmp_path: Path) -> None:
    Image.fromarray(smooth(20, 30)).save(tmp_path / "color.png")
    with pytest.raises(DataFileError, match=r"color\.png has 3 channels; expected one channel"):
        read_label(tmp_path / "color.png")
    Image.fromarray(ids(20, 30)).save(tmp_path / "label.jpg")
    for in_color in (False, True):
        with pytest.raises(DataFileError, match=r"label\.jpg is a JPEG"):
            read_label(tmp_path / "label.jpg", in_color)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_colour_labels_are_read_with_in_color(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(smooth(20, 30)).save(tmp_path / f"color{suffix}")
    Image.fromarray(ids(20, 30)).save(tmp_path / f"ids{suffix}")
    np.testing.assert_array_equal(read_label(tmp_path / f"color{suffix}", in_color=True), smooth(20, 30))
    np.testing.assert_array_equal(read_label(tmp_path / f"ids{suffix}", in_color=True), ids(20, 30))
    if suffix == ".png":
        Image.fromarray(np.dstack([smooth(20, 30), ids(20, 30)])).save(tmp_path / "alpha.png")
        np.testing.assert_array_equal(read_label(tmp_path / "alpha.png", in_color=True), smooth(20, 30))
        Image.fromarray(np.dstack([ids(20, 30)] * 2)).save(tmp_path / "grey_alpha.png")
        with pytest.raises(DataFileError, match=r"grey_alpha\.png has 2 channels"):
            read_label(tmp_path / "grey_alpha.png", in_color=True)


def test_images_are_found_by_name_in_all_folders(tmp_path: Path) -> None:
    for name in ("b_mask.png", "day/a_mask.JPG", "day/a.png", "day/a_mask.txt", "._c_mask.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert images_below(tmp_path, "_mask") == {"b": tmp_path / "b_mask.png", "day/a": tmp_path / "day" / "a_mask.JPG"}
    assert list(images_below(tmp_path)) == ["b_mask", "day/a", "day/a_mask"]
    assert images_below(tmp_path / "gone") == {}


@pytest.mark.parametrize("has_palette", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_truncated_labels_are_named(tmp_path: Path, has_palette: bool, kept: float) -> None:
    image = Image.fromarray(ids(120, 160))
    if has_palette:
        image.putpalette(list(range(57)))
    path = tmp_path / "label.png"
    image.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(DataFileError, match=r"label\.png is truncated or no image"):
        read_label(path)


def test_written_files_read_back_and_leave_nothing_else(tmp_path: Path) -> None:
    write_image(tmp_path / "new" / "image.png", smooth(20, 30))
    write_image(tmp_path / "new" / "label.png", ids(20, 30))
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "image.png"), smooth(20, 30))
    np.testing.assert_array_equal(read_label(tmp_path / "new" / "label.png"), ids(20, 30))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["image.png", "label.png"]


def test_genuine_files_read_as_pillow_reads_them(shared_data: Path) -> None:
    pascal = shared_data / "pascal_context"
    for path in sorted((pascal / "SegmentationClassContext").glob("*.png"))[:5]:
        np.testing.assert_array_equal(read_label(path), np.asarray(Image.open(path)))
        photo = pascal / "JPEGImages" / f"{path.stem}.jpg"
        np.testing.assert_allclose(read_image(photo).astype(int), np.asarray(Image.open(photo)), atol=3)
    frame = min((shared_data / "cityscapes/leftImg8bit/val").rglob("*.png"))
    np.testing.assert_array_equal(read_image(frame), np.asarray(Image.open(frame)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_of_a_file_is_that_of_what_is_read(tmp_path: Path, orientation: int) -> None:
    picture = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = picture.getexif()
    exif[0x112] = orientation
    for suffix in ("jpg", "png"):
        path = tmp_path / f"turned.{suffix}"
        picture.save(path, exif=exif)
        assert image_size(path) == read_image(path).shape[:2]


def test_the_size_of_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataFileError, match=r"text.png is truncated or no image"):
        image_size(tmp_path / "text.png")
    with pytest.raises(DataFileError, match=r"missing.png cannot be read: No such file"):
        image_size(tmp_path / "missing.png")


def test_a_full_disk_keeps_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "label.png"
    write_image(path, np.zeros((4, 4), np.uint8))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # the system refuses what goes beyond
    try:
        with pytest.raises(OutputError, match=r"label.png cannot be written: File too large; make room"):
            write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_label(path).shape == (4, 4)
    assert list(tmp_path.iterdir()) == [path]


def test_reading_is_retried_while_the_file_system_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = np.full((4, 5, 3), 7, np.uint8)
    write_image(tmp_path / "safe.png", image)
    path = tmp_path / "image.png"
    path.symlink_to("/proc/self/mem")  # whose first byte gives an input/output error

    def come_back(seconds: float) -> None:
        path.unlink()
        path.symlink_to("safe.png")

    monkeypatch.setattr("time.sleep", come_back)
    assert np.array_equal(read_image(path), image)
    assert [record.message for record in caplog.records] == [
        f"{path} cannot be read: Input/output error; trying again in 1 s"
    ]


def test_a_file_system_that_stays_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    path = tmp_path / "label.png"
    path.symlink_to("/proc/self/mem")
    with pytest.raises(FileSystemError, match=r"label.png cannot be read: Input/output error, 7 times within 63 s; is"):
        read_label(path)
    assert pauses == [1, 2, 4, 8, 16, 32]
