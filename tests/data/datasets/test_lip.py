from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hrseg.data.datasets.lip import LIP, LIPDataModule
from hrseg.data.transforms import HorizontalFlip
from hrseg.errors import DataFileError, DataNotFoundError
from hrseg.utils.images import read_label, write_image
from tests.conftest import write_jpeg


@pytest.fixture
def lip_root(tmp_path: Path) -> Path:
    """LIP with images of different sizes, one of them grey: 5 train, 3 val, 1 test without label."""
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


def names(data: LIPDataModule, split: str) -> list[str]:
    return [sample.name for sample in data.find_samples(split)]


def test_the_table() -> None:
    assert LIP.num_classes == 20
    assert [(LIP.class_names[left], LIP.class_names[right]) for left, right in LIP.flip_pairs] == [
        ("left arm", "right arm"),
        ("left leg", "right leg"),
        ("left shoe", "right shoe"),
    ]


def test_a_split_without_a_list_is_its_folder(lip_root: Path) -> None:
    data = LIPDataModule(lip_root, batch_size=2)
    assert names(data, "train") == [f"{person}_train" for person in range(5)]
    assert names(data, "trainval") == names(data, "train") + names(data, "val")
    assert names(data, "test") == ["0_test"]


@pytest.mark.parametrize("folder", [".", "lists", "TrainVal_images"])
@pytest.mark.parametrize("kind", ["ids", "official code"])
def test_a_split_follows_its_list_in_either_format(lip_root: Path, kind: str, folder: str) -> None:
    (lip_root / folder).mkdir(exist_ok=True)
    if kind == "ids":
        (lip_root / folder / "train_id.txt").write_text("3_train\n0_train\n")
    else:
        rows = [
            f"train_images/{name}.jpg train_segmentations/{name}.png reversed/{name}.png edge/{name}.png"
            for name in ("3_train", "0_train")
        ]
        (lip_root / folder / "trainList.txt").write_text("\n".join(rows))
    data = LIPDataModule(lip_root, batch_size=2, num_workers=0)
    assert names(data, "train") == ["3_train", "0_train"]
    data.setup("fit")


def test_an_image_that_a_list_names_must_be_there(lip_root: Path) -> None:
    (lip_root / "val_id.txt").write_text("0_val\nnobody\n")
    with pytest.raises(DataNotFoundError, match=r"1 of 2 images that .*val_id.txt names are missing, .*nobody.jpg"):
        LIPDataModule(lip_root, batch_size=2).find_samples("val")
    (lip_root / "val_id.txt").write_text("../0_val\n")
    with pytest.raises(DataFileError, match=r"val_id.txt, line 1: ../0_val; expected"):
        LIPDataModule(lip_root, batch_size=2).find_samples("val")


def test_images_are_resized_and_labels_scored_at_their_own_size(lip_root: Path) -> None:
    data = LIPDataModule(lip_root, batch_size=5, num_workers=0, eval_batch_size=3)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (3, 3, 473, 473)
    assert [tuple(target.shape) for target in batch["target"]] == [(50, 40), (60, 40), (70, 40)]
    grey = batch["image"][1]
    assert torch.equal(grey[0], grey[1])
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (5, 3, 473, 473)
    assert batch["target"].shape == (5, 473, 473)


def test_flipping_gives_the_published_mirrored_labels(shared_data: Path) -> None:
    flip = HorizontalFlip(LIP.flip_pairs, p=1.0)
    pairs = sorted((shared_data / "cihp" / "labels").glob("*.png"))
    assert len(pairs) == 4
    for path in pairs:
        mirrored = flip.apply_to_mask(read_label(path))
        np.testing.assert_array_equal(mirrored, read_label(path.parents[1] / "labels_rev" / path.name))


def test_the_genuine_pair_and_lists(shared_data: Path, tmp_path: Path) -> None:
    for folder in ("TrainVal_images", "TrainVal_parsing_annotations"):
        (tmp_path / folder).symlink_to(shared_data / "lip" / folder)
    data = LIPDataModule(tmp_path, batch_size=1, val_split="train", num_workers=0)
    data.setup("validate")
    (batch,) = data.val_dataloader()
    assert batch["image"].shape == (1, 3, 473, 473)
    assert set(batch["target"].unique().tolist()) <= {*range(20), 255}

    (tmp_path / "lists").symlink_to(shared_data / "lip" / "lists")
    with pytest.raises(DataNotFoundError, match=r"30461 of 30462 images that .*train_id.txt names are missing"):
        data.find_samples("train")
