from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hrseg.data.classes import default_colors, read_classes
from hrseg.data.guess import guess_classes
from hrseg.errors import DataFileError, DataNotFoundError
from hrseg.images import write_image

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
    assert f"# 255 is ignored: {100 * (IDS == 255).sum() / 1200:.3g} % of all pixels, in 1 masks" in text


def test_the_file_fits_the_masks_it_was_guessed_from(tmp_path: Path) -> None:
    save(tmp_path / "masks" / "a.png", IDS)
    (tmp_path / "classes.yaml").write_text(guess_classes(tmp_path / "masks"))
    expected = np.select([IDS == 3, IDS == 8, IDS == 20], [0, 1, 2], 255)
    np.testing.assert_array_equal(read_classes(tmp_path / "classes.yaml", "mine").encode(IDS, "a.png"), expected)


def test_colors_come_from_the_palette(tmp_path: Path) -> None:
    palette = np.random.default_rng(1).integers(0, 256, (256, 3))
    save(tmp_path / "a.png", IDS, palette.ravel().tolist())
    assert yaml.safe_load(guess_classes(tmp_path))["colors"] == palette[[3, 8, 20]].tolist()
    save(tmp_path / "a.png", IDS, [0] * 768)  # a palette that tells nothing apart
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


def test_what_are_no_masks_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no mask \*_m\.png in .*; give --masks"):
        guess_classes(tmp_path, "_m")
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
