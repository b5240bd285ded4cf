from __future__ import annotations

import io

import IPython.display
import numpy as np
import pytest
from PIL import Image

from hrseg.data.labels import LabelTable
from hrseg.visualize import (
    channels,
    confusion_picture,
    contact_sheet,
    errors,
    heat,
    legend,
    overlay,
    overlay_with_legend,
    panel,
    show,
    side_by_side,
)

TABLE = LabelTable("toy", ("sky", "road"), ((10, 20, 30), (200, 100, 50)))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 300, 3), dtype=np.uint8)


@pytest.fixture
def target() -> np.ndarray:
    target = np.zeros((20, 300), np.uint8)
    target[10:] = 1
    target[:, :5] = 255
    return target


def test_overlay_blends_classes_and_keeps_ignored_pixels(image: np.ndarray, target: np.ndarray) -> None:
    blended = overlay(image, target, TABLE, opacity=0.5)
    np.testing.assert_array_equal(blended[:, :5], image[:, :5])
    expected = (image[15, 100].astype(float) + TABLE.colors[1]) / 2
    np.testing.assert_allclose(blended[15, 100], expected, atol=1)
    np.testing.assert_array_equal(overlay(image, target, TABLE, opacity=1)[0, 100], TABLE.colors[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("width", [300, 20])
def test_confidence_is_drawn_beside_the_overlay(width: int, dtype: type) -> None:
    most = np.iinfo(dtype).max
    confidence = np.full((30, width), most, dtype)
    confidence[:, :10] = 0
    image, target = np.full((30, width, 3), 90, np.uint8), np.ones((30, width), np.uint8)
    alone = overlay_with_legend(image, target, TABLE)
    picture = overlay_with_legend(image, target, TABLE, confidence)
    np.testing.assert_array_equal(picture[:, :width], alone)
    drawn = picture[:, -width:]
    np.testing.assert_array_equal(drawn[:30], heat(confidence / most, 0, 1))
    assert (drawn[30:] == 255).any()  # the scale, black on white
    if width == 300:
        assert (drawn[30:] == heat(np.ones((1, 1)), 0, 1)).all(2).any()  # the scale's brightest colour


def test_errors_mark_wrong_right_and_ignored(target: np.ndarray) -> None:
    prediction = target.copy()
    prediction[0, 100] = 1
    prediction[0, 0] = 1  # ignored: neither wrong nor right
    picture = errors(prediction, target, TABLE)
    assert picture[0, 100, 0] > picture[0, 100, 1]
    assert picture[0, 101, 1] > picture[0, 101, 0]
    assert not picture[0, 0].any()


def test_panel_has_four_pictures_side_by_side(image: np.ndarray, target: np.ndarray) -> None:
    picture = panel(image, target, target, TABLE)
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 20
    assert picture.shape[1] > 4 * 300
    np.testing.assert_array_equal(picture[:, :300], image)


def test_legend_shows_every_class_in_its_colour_and_wraps() -> None:
    wide = legend(TABLE, [0, 1], 2000)
    narrow = legend(TABLE, [0, 1], 80)
    assert wide.shape[1] == 2000
    assert narrow.shape[0] > legend(TABLE, [0], 80).shape[0]
    for color in TABLE.colors:
        assert (wide == color).all(-1).any()
        assert (narrow == color).all(-1).any()


def test_overlay_with_legend_and_sheet(image: np.ndarray, target: np.ndarray) -> None:
    picture = overlay_with_legend(image, target, TABLE)
    assert picture.shape[1] == 300
    assert picture.shape[0] > 20
    one = panel(image, target, target, TABLE)
    sheet = contact_sheet([one, one], TABLE)
    assert sheet.shape[1] == one.shape[1]
    assert sheet.shape[0] > 2 * one.shape[0]


def test_a_map_without_classes_has_an_empty_legend(image: np.ndarray) -> None:
    target = np.full(image.shape[:2], 255, np.uint8)
    assert overlay_with_legend(image, target, TABLE).shape[1] == 300


def test_panels_of_several_sizes_share_a_sheet() -> None:
    panels = [np.zeros((20, 300, 3), np.uint8), np.zeros((30, 200, 3), np.uint8)]
    sheet = contact_sheet(panels, TABLE)
    assert sheet.shape[1] == 300
    assert not sheet[:20].any()
    assert (sheet[30:50, 200:] == 255).all()


def test_the_confusion_picture_is_dark_where_pixels_are() -> None:
    matrix = np.array([[90, 10, 0], [0, 0, 0]])  # no pixel of the second class; the last column is no class
    picture = confusion_picture(matrix, TABLE)
    cell = 36
    margin = picture.shape[0] - 2 * cell
    assert picture.shape[1] == margin + 3 * cell

    def corner(row: int, column: int) -> int:  # where no text stands
        return int(picture[margin + row * cell + 2, margin + column * cell + 2].sum())

    assert corner(0, 0) < corner(0, 1) < corner(0, 2) == 3 * 255
    assert (picture[margin + cell :, margin:] == 255).all()
    assert (picture[margin : margin + cell, :margin] != 255).any()  # the name of the first class


def test_pictures_of_different_widths_side_by_side(image: np.ndarray) -> None:
    picture = side_by_side([image, image[:, :50], image])
    np.testing.assert_array_equal(picture[:, :300], image)
    assert (picture[:, 300:306] == 255).all()
    np.testing.assert_array_equal(picture[:, 306:356], image[:, :50])
    np.testing.assert_array_equal(picture[:, -300:], image)


def test_heat_grows_from_dark_blue_to_yellow() -> None:
    picture = heat(np.array([[0.0, 5.0, 10.0, 20.0]]), high=10)
    brightness = picture.astype(int).sum(-1)[0]
    assert brightness[0] < brightness[1] < brightness[2] == brightness[3]
    red, green, blue = picture[0, 0].astype(int)
    assert blue > max(red, green)
    red, green, blue = picture[0, 2].astype(int)
    assert min(red, green) > blue


@pytest.mark.parametrize("values", [np.full((2, 3), 7, np.int64), np.zeros((2, 3), np.float16)])
def test_heat_of_a_constant_is_dark(values: np.ndarray) -> None:
    np.testing.assert_array_equal(heat(values), np.broadcast_to(heat(np.array([[0.0, 1.0]]))[0, 0], (2, 3, 3)))


def test_channels_are_those_that_vary_most_and_show_their_pixels() -> None:
    features = np.zeros((4, 2, 4), np.float32)
    features[1] = 100  # large, but the same everywhere
    features[2, 0] = 1
    features[3, :, 0] = 5
    picture = channels(features, number=2, height=20)
    assert picture.shape == (20, 2 * 40 + 6, 3)
    bright, dark = heat(np.array([[1.0, 0.0]]))[0]
    assert (picture[:, :10] == bright).all()
    assert (picture[:, 10:40] == dark).all()
    assert (picture[:10, 46:] == bright).all()
    assert (picture[10:, 46:] == dark).all()


def test_show_puts_a_small_jpeg_into_the_notebook(image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[IPython.display.Image] = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    picture = np.full((40, 60, 3), (200, 100, 0), np.uint8)
    show(picture, width=120)
    (jpeg,) = shown
    assert (jpeg.format, jpeg.width) == ("jpeg", 120)
    pixels = np.asarray(Image.open(io.BytesIO(jpeg.data)))
    np.testing.assert_allclose(pixels, picture, atol=8)
