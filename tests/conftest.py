"""Fixtures that more than one test file uses."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrseg.data.datasets.cityscapes import CITYSCAPES
from hrseg.utils.images import write_image

# a shell that runs the tests in the background has them ignore Ctrl-C, which some of them send
signal.signal(signal.SIGINT, signal.default_int_handler)

CITYSCAPES_IDS = np.array([*CITYSCAPES.label_ids, *CITYSCAPES.void_ids], np.uint8)


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed that `seed_everything` leaves to all that follows does not go from one test to the next."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    """Cityscapes with 64x128 images: 6 train in two cities, 3 val, 2 test without labels, 2 train_extra."""
    return write_cityscapes(tmp_path / "cityscapes")


def write_cityscapes(root: Path) -> Path:
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
    return write_camvid(tmp_path / "camvid")


def write_camvid(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, number in {"train": 5, "val": 2}.items():
        for frame in range(number):
            write_image(root / split / f"{frame:04d}.png", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
            write_image(root / f"{split}annot" / f"{frame:04d}.png", rng.integers(0, 12, (48, 64), dtype=np.uint8))
    return root


@pytest.fixture
def lip_root(tmp_path: Path) -> Path:
    """LIP with images of different sizes, one of them grey: 5 train, 3 val, 1 test without a label."""
    return write_lip(tmp_path / "lip")


def write_lip(root: Path) -> Path:
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


@pytest.fixture
def pascal_context_root(tmp_path: Path) -> Path:
    """PASCAL-Context with images of different sizes: 5 train, 3 val."""
    return write_pascal_context(tmp_path / "VOC2010")


def write_pascal_context(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, number in {"train": 5, "val": 3}.items():
        names = [f"2008_{split}_{index}" for index in range(number)]
        for index, name in enumerate(names):
            size = (32 + 8 * index, 96)
            write_jpeg(root / "JPEGImages" / f"{name}.jpg", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            label = rng.integers(0, 60, size, dtype=np.uint8)
            write_image(root / "SegmentationClassContext" / f"{name}.png", label)
        list_file = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        list_file.parent.mkdir(parents=True, exist_ok=True)
        list_file.write_text("\n".join(names))
    return root


FOLDER_CLASSES = """\
names: [ground, left arm, right arm]
colors: [[128, 64, 128], [0, 0, 250], [250, 0, 0]]
ids: [1, 4, 7]
ignore: [0, [0, 0, 0]]
flip_pairs: [[left arm, right arm]]
"""


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    """A user's own 10 images of 48x64 in two folders, with classes.yaml; masks of ids, of palettes and of colours."""
    root = tmp_path / "mine"
    rng = np.random.default_rng(0)
    palette = np.zeros((8, 3), np.uint8)
    palette[[1, 4, 7]] = (128, 64, 128), (0, 0, 250), (250, 0, 0)
    for number in range(10):
        name = f"{'left' if number % 2 else 'right'}/{number:02d}"
        write_jpeg(root / "images" / f"{name}.jpg", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        ids = rng.choice(np.array([0, 1, 4, 7], np.uint8), (48, 64))
        mask = Image.fromarray(palette[ids] if number % 3 == 2 else ids)
        if number % 3 == 1:
            mask.putpalette(palette.tobytes())
        path = root / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)
    (root / "classes.yaml").write_text(FOLDER_CLASSES)
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
