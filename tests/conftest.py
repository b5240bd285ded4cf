"""Fixtures that more than one test file uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrseg.data.cityscapes import CITYSCAPES
from hrseg.images import write_image

CITYSCAPES_IDS = np.array([*CITYSCAPES.label_ids, *CITYSCAPES.void_ids], np.uint8)


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    """Cityscapes with 64x128 images: 6 train in two cities, 3 val, 2 test without labels, 2 train_extra."""
    root = tmp_path / "cityscapes"
    rng = np.random.default_rng(0)
    for split, cities in {
        "train": {"bremen": 4, "aachen": 2},
        "val": {"lindau": 3},
        "test": {"bonn": 2},
        "train_extra": {"erlangen": 2},
    }.items():
        annotation = "gtCoarse" if split == "train_extra" else "gtFine"
        for city, number in cities.items():
            for frame in range(number):
                name = f"{city}_{frame:06d}_000019"
                image = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
                write_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image)
                if split != "test":
                    label = rng.choice(CITYSCAPES_IDS, (64, 128))
                    write_image(root / annotation / split / city / f"{name}_{annotation}_labelIds.png", label)
    return root


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    """CamVid with 48x64 images: 5 train, 2 val."""
    root = tmp_path / "camvid"
    rng = np.random.default_rng(0)
    for split, number in {"train": 5, "val": 2}.items():
        for frame in range(number):
            write_image(root / split / f"{frame:04d}.png", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
            write_image(root / f"{split}annot" / f"{frame:04d}.png", rng.integers(0, 12, (48, 64), dtype=np.uint8))
    return root


@pytest.fixture
def lip_root(tmp_path: Path) -> Path:
    """LIP with images of different sizes, one of them grey: 5 train, 3 val, 1 test without a label."""
    root = tmp_path / "lip"
    rng = np.random.default_rng(0)
    for split, number in {"train": 5, "val": 3}.items():
        for person in range(number):
            size, name = (50 + 10 * person, 40), f"{person}_{split}"
            image = rng.integers(0, 256, size if person == 1 else (*size, 3), dtype=np.uint8)
            write_jpeg(root / "TrainVal_images" / f"{split}_images" / f"{name}.jpg", image)
            label = rng.integers(0, 20, size, dtype=np.uint8)
            write_image(root / "TrainVal_parsing_annotations" / f"{split}_segmentations" / f"{name}.png", label)
    image = rng.integers(0, 256, (60, 40, 3), dtype=np.uint8)
    write_jpeg(root / "Testing_images" / "testing_images" / "0_test.jpg", image)
    return root


def write_jpeg(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of genuine samples beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data with genuine samples of the data sets is not here")
    return folder
