"""What every case of the fuzzer starts from: small data sets, recipes, and a run that trained for one step."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import yaml
from PIL import Image

from hrseg.data.datasets.cityscapes import CITYSCAPES
from hrseg.data.datasets.pascal_context import PASCAL_CONTEXT_59
from tests.data.datasets.test_folder import CLASSES

FITTING = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1"]
_SETTINGS: dict[str, Any] = {"batch_size": 2, "crop_size": [32, 32], "num_workers": 0}
_DATA = {
    "cityscapes": {"class_path": "hrseg.CityscapesDataModule", "init_args": {"root": "cityscapes"}},
    "folder": {"class_path": "hrseg.FolderDataModule", "init_args": {"root": "mine", "classes": "classes.yaml"}},
    "lip": {"class_path": "hrseg.LIPDataModule", "init_args": {"root": "lip"}},
    "pascal": {"class_path": "hrseg.PascalContextDataModule", "init_args": {"root": "VOC2010"}},
}
RECIPES = [f"{name}.yaml" for name in _DATA]


def make_data(folder: Path) -> None:
    """Writes four data sets of a few small images each, a recipe for each, and the sources of PASCAL-Context."""
    rng = np.random.default_rng(0)

    def image(path: Path, size: tuple[int, int] = (40, 64)) -> None:
        _save(folder / path, rng.integers(0, 256, (*size, 3), dtype=np.uint8))

    def label(path: Path, ids: Any, size: tuple[int, int] = (40, 64)) -> None:
        _save(folder / path, rng.choice(np.array(ids, np.uint8), size))

    for split, city in {"train": "aachen", "val": "lindau", "test": "bonn"}.items():
        for frame in range(2):
            name = f"{city}_{frame:06d}_000019"
            image(Path("cityscapes/leftImg8bit", split, city, f"{name}_leftImg8bit.png"))
            if split != "test":
                label(Path("cityscapes/gtFine", split, city, f"{name}_gtFine_labelIds.png"), CITYSCAPES.label_ids)
        for person in range(2):
            if split != "test":
                image(Path("lip/TrainVal_images", f"{split}_images", f"{person}_{split}.jpg"))
                folder_of_labels = f"{split}_segmentations"
                label(Path("lip/TrainVal_parsing_annotations", folder_of_labels, f"{person}_{split}.png"), range(20))
                _write(folder / f"lip/TrainVal_images/{split}_id.txt", f"0_{split}\n1_{split}\n")
                image(Path("VOC2010/JPEGImages", f"2008_{split}_{person}.jpg"))
                label(Path("VOC2010/SegmentationClassContext", f"2008_{split}_{person}.png"), range(60))
                places = f"2008_{split}_0\n2008_{split}_1\n"
                _write(folder / f"VOC2010/ImageSets/SegmentationContext/{split}.txt", places)
    for number in range(6):
        image(Path("mine/images", f"{number:02d}.{('jpg', 'png')[number % 2]}"))
        label(Path("mine/masks", f"{number:02d}.png"), (0, 1, 4, 7))
    _write(folder / "mine/classes.yaml", CLASSES)
    for number, suffix in enumerate(("png", "jpg", "tif", "bmp", "webp", "gif")):
        image(Path("street", f"{number}.{suffix}"))
    for name, data in _DATA.items():
        data = {**data, "init_args": {**data["init_args"], **_SETTINGS}}
        trainer = {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1}
        recipe = {"model": {"network": "hrnetv2_w18_small_v1"}, "data": data, "trainer": trainer}
        _write(folder / f"{name}.yaml", yaml.safe_dump(recipe, sort_keys=False))
    _pascal_sources(folder)


def _pascal_sources(folder: Path) -> None:
    names = ["2008_000002", "2008_000003"]
    for name in names:
        _save(folder / "voc" / "JPEGImages" / f"{name}.jpg", np.zeros((10, 12, 3), np.uint8))
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 2, "segmentation": [[1, 1, 8, 1, 8, 6, 1, 6]]},
        {"id": 2, "image_id": 2, "category_id": 9, "segmentation": {"counts": [30, 40, 50], "size": [10, 12]}},
    ]
    images = [
        {"image_id": number, "file_name": f"{name}.jpg", "height": 10, "width": 12, "phase": phase}
        for number, (name, phase) in enumerate(zip(names, ("train", "val"), strict=True), 1)
    ]
    classes = dict(enumerate(PASCAL_CONTEXT_59.class_names, 1))
    categories = [{"category_id": number, "name": name} for number, name in classes.items()]
    content = {"images": images, "annos_segmentation": annotations, "annos_occlusion": [], "categories": categories}
    _write(folder / "detail.json", json.dumps(content))
    (folder / "release" / "trainval").mkdir(parents=True)
    _write(folder / "release" / "labels.txt", "".join(f"{number}: {name}\n" for number, name in classes.items()))
    for name in names:
        scipy.io.savemat(folder / "release" / "trainval" / f"{name}.mat", {"LabelMap": np.full((10, 12), 2, np.uint16)})


def copy_of(base: Path, place: Path) -> None:
    """A copy for one case; checkpoints, which nothing writes to in place, are shared."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".ckpt") else shutil.copyfile)(source, target)

    shutil.copytree(base, place, copy_function=copy)


def put(path: Path, content: bytes) -> None:
    """Replaces a file; never in place, as checkpoints are shared."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def pick(rng: random.Random, place: Path, *patterns: str) -> Path:
    """One of the files that fit a pattern, whatever order the folder has."""
    return rng.choice(sorted(path for pattern in patterns for path in place.glob(pattern) if path.is_file()))


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
