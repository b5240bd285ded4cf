from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hrseg.data.classes import default_colors, read_classes
from hrseg.data.tools.guess import guess_classes, snap_masks
from hrseg.errors import ConfigError, DataFileError, DataNotFoundError
from hrseg.utils.images import write_image

IDS = np.random.default_rng(0).choice(np.array([3, 8, 8, 20, 255], np.uint8), (20, 30))


def save(path: Path, mask: np.ndarray, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(palette)
    image.save(path)


def test_ids_become_classes_with_their_counts_in_comments(tmp_path: Path) -> None:
    save(tmp_path / "day" / "a.png", IDS)
    save(tmp_path / "b.png", np.full((20, 30), 8, np.uint8))
    text = guess_classes(tmp_path)
    assert yaml.safe_load(text) == {
        "names": ["class_0", "class_1", "class_2"],
        "colors": [list(color) for color in default_colors(3)],
        "ids": [3, 8, 20],
        "ignore": [],
        "flip_pairs": [],
    }
    share = 100 * ((IDS == 8).sum() + 600) / 1200
    assert f"class_1  # label id 8: {share:.3g} % of all pixels, in 2 masks" in text
    assert f"# 255 is ignored: {100 * (IDS == 255).sum() / 1200:.3g} % of all pixels, in 1 masks; it is far" in text


def test_the_file_fits_the_masks_it_was_guessed_from(tmp_path: Path) -> None:
    save(tmp_path / "masks" / "a.png", IDS)
    (tmp_path / "classes.yaml").write_text(guess_classes(tmp_path / "masks"))
    expected = np.select([IDS == 3, IDS == 8, IDS == 20], [0, 1, 2], 255)
    np.testing.assert_array_equal(read_classes(tmp_path / "classes.yaml", "mine").encode(IDS, "a.png"), expected)


def test_colors_come_from_the_palette(tmp_path: Path) -> None:
    palette = np.random.default_rng(1).integers(0, 256, (256, 3))
    save(tmp_path / "a.png", IDS, palette.ravel().tolist())
    assert yaml.safe_load(guess_classes(tmp_path))["colors"] == palette[[3, 8, 20]].tolist()
    save(tmp_path / "a.png", IDS, [0] * 768)  # a palette of one colour
    assert yaml.safe_load(guess_classes(tmp_path))["colors"] == [list(color) for color in default_colors(3)]


def test_colors_of_pictures_become_classes(tmp_path: Path) -> None:
    palette = np.zeros((256, 3), np.uint8)
    palette[[3, 8, 20]] = (9, 0, 0), (128, 64, 128), (10, 0, 0)
    save(tmp_path / "a_mask.png", palette[IDS])
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    text = guess_classes(tmp_path, "_mask")
    entries = yaml.safe_load(text)
    assert entries["colors"] == [[0, 0, 0], [9, 0, 0], [10, 0, 0], [128, 64, 128]]
    assert "ids" not in entries
    assert f"colour [9, 0, 0]: {100 * (IDS == 3).mean():.3g} %" in text


def test_masks_of_0_and_255_have_two_classes(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.where(IDS > 8, 255, 0).astype(np.uint8))
    assert yaml.safe_load(guess_classes(tmp_path))["ids"] == [0, 255]


@pytest.mark.parametrize(
    ("others", "is_void"),
    [
        ([0, 128], False),  # greys stretched to 0-255: ignored before, and with it 23 % of the pixels of polyps
        ([0, 85, 170], False),
        ([1], False),
        ([0, 1], True),
        ([1, 2, 3], True),
        ([0, 15], True),  # some of VOC's
        ([*range(21)], True),
    ],
)
def test_255_is_a_class_unless_it_lies_far_from_other_ids_and_the_file_says_which(
    others: list[int], is_void: bool, tmp_path: Path
) -> None:
    mask = np.repeat(np.array([*others, 255], np.uint8), 9)[None].repeat(9, 0)
    save(tmp_path / "a.png", mask)
    text = guess_classes(tmp_path)
    assert yaml.safe_load(text)["ids"] == (others if is_void else [*others, 255])
    assert ("# 255 is ignored: " in text, "# 255 is a class: " in text) == (is_void, not is_void)


def blocks(values: list[int], size: int = 40) -> np.ndarray:
    return np.repeat(np.array(values, np.uint8), size)[None].repeat(size, 0)


@pytest.mark.parametrize("name", ["a.jpg", "a.jp2", "a.png"])
def test_jpeg_noise_is_no_class_and_is_removed(name: str, tmp_path: Path) -> None:
    clean = blocks([0, 255])
    rows, columns = np.ogrid[-20:20, -40:40]
    clean[(rows**2 + columns**2 < 150)] = 128
    Image.fromarray(clean).save(tmp_path / "noisy.jpg", quality=80)
    (tmp_path / "masks").mkdir()
    with Image.open(tmp_path / "noisy.jpg") as noisy:
        noisy.save(tmp_path / "masks" / name)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "masks" / name)))) > 10
    with pytest.raises(DataFileError, match=r"^[^\n]*the others are 0, 128, 255\. Add --snap FOLDER[^\n]*$"):
        guess_classes(tmp_path / "masks")
    assert snap_masks(tmp_path / "masks", "", tmp_path / "out") == ["0", "128", "255"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), clean)
    assert yaml.safe_load(guess_classes(tmp_path / "out"))["ids"] == [0, 128, 255]
    with pytest.raises(ConfigError, match=r"out is there already; give a new folder"):
        snap_masks(tmp_path / "masks", "", tmp_path / "out")


def test_a_jpeg_without_noise_is_not_reported_as_noisy(tmp_path: Path) -> None:
    """Regression: the message said that 0 of 2 values are noise."""
    (tmp_path / "masks").mkdir()
    Image.fromarray(blocks([0, 255])).save(tmp_path / "masks" / "a.jpg", quality=100)
    with pytest.raises(
        DataFileError, match=r"JPEG: the values are 0, 255, without noise\. Add --snap FOLDER: .* there$"
    ):
        guess_classes(tmp_path / "masks")


def test_smoothed_edges_of_painted_masks_are_snapped_to_the_nearest_colour(tmp_path: Path) -> None:
    clean = np.zeros((40, 80, 3), np.uint8)
    clean[:, 40:] = 250, 0, 10
    smooth = clean.copy()
    smooth[:, 38:42, 0] = np.random.default_rng(0).integers(0, 250, (40, 4))
    save(tmp_path / "masks" / "a.png", smooth)
    with pytest.raises(DataFileError, match=r"the others are \[0, 0, 0\], \[250, 0, 10\]"):
        guess_classes(tmp_path / "masks")
    snap_masks(tmp_path / "masks", "", tmp_path / "out")
    snapped = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert {*map(tuple, snapped.reshape(-1, 3).tolist())} == {(0, 0, 0), (250, 0, 10)}
    np.testing.assert_array_equal(snapped[:, :38], clean[:, :38])


def test_values_that_look_like_instances_are_reported(tmp_path: Path) -> None:
    """Regression: 47 colours of a panoptic PNG became classes without a message."""
    save(tmp_path / "a.png", blocks([0, *range(1, 15)], 9))
    assert "do they number instances" in guess_classes(tmp_path)
    save(tmp_path / "a.png", np.tile(blocks([*range(15)], 9), (1, 3)))  # each in three regions, like classes
    assert "instances" not in guess_classes(tmp_path)


def test_files_that_are_no_masks_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no mask \*_m\.png in .*, which holds nothing; give --masks"):
        guess_classes(tmp_path, "_m")
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataNotFoundError, match=rf"masks, which is missing; {tmp_path} holds labels/; give --masks"):
        guess_classes(tmp_path / "masks")
    (tmp_path / "labels").rmdir()
    save(tmp_path / "a.png", IDS)
    save(tmp_path / "b.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DataFileError, match=r"a\.png holds label ids and .*b\.png colours; expected one kind"):
        guess_classes(tmp_path)
    (tmp_path / "a.png").unlink()
    write_image(tmp_path / "b.png", np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    with pytest.raises(DataFileError, match=r"b\.png hold 600 different values; expected 253 classes or fewer\. Are"):
        guess_classes(tmp_path)
    (tmp_path / "b.png").write_bytes(b"nothing")
    with pytest.raises(DataFileError, match=r"^[^\n]*b\.png is truncated[^\n]*$"):
        guess_classes(tmp_path)
