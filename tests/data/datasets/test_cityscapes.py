from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import labels as official_labels

from hrseg.data.datasets.cityscapes import CITYSCAPES, CITYSCAPES_CLASS_WEIGHTS, CityscapesDataModule
from hrseg.data.tools.verify import verify
from hrseg.errors import ConfigError, LabelRangeError
from hrseg.utils.images import read_image, read_label, write_image


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    """Cityscapes with 64x128 images: 6 train in two cities, 3 val, 2 test without labels, 2 train_extra."""
    return write_cityscapes(tmp_path / "cityscapes")


def write_cityscapes(root: Path) -> Path:
    rng = np.random.default_rng(0)
    ids = np.array([*CITYSCAPES.label_ids, *CITYSCAPES.void_ids], np.uint8)
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
                    label = rng.choice(ids, (64, 128))
                    write_image(root / annotation / split / city / f"{name}_{annotation}_labelIds.png", label)
    return root


def cityscapes(root: Path, **settings: Any) -> CityscapesDataModule:
    return CityscapesDataModule(root, **{"batch_size": 2, "crop_size": (32, 64), "num_workers": 0, **settings})


def test_the_table_equals_that_of_cityscapesscripts() -> None:
    classes = {label.trainId: label for label in official_labels if not label.ignoreInEval and label.id >= 0}
    assert sorted(classes) == list(range(19))
    assert CITYSCAPES.class_names == tuple(classes[k].name for k in range(19))
    assert CITYSCAPES.colors == tuple(classes[k].color for k in range(19))
    assert CITYSCAPES.label_ids == tuple(classes[k].id for k in range(19))
    assert set(CITYSCAPES.void_ids) == {label.id for label in official_labels if label.ignoreInEval and label.id >= 0}
    for name, train_ids in CITYSCAPES.categories.items():
        assert train_ids == tuple(k for k in range(19) if classes[k].category == name)
    assert sorted(k for train_ids in CITYSCAPES.categories.values() for k in train_ids) == list(range(19))


def test_every_label_id_maps_as_cityscapesscripts_maps_it() -> None:
    for label in official_labels:
        if label.id >= 0:  # -1, the licence plate, does not fit into 8 bits
            expected = 255 if label.ignoreInEval else label.trainId
            assert CITYSCAPES.encode(np.array([[label.id]], np.uint8), "a.png") == expected


def test_the_counts_are_the_published_ones() -> None:
    counts = CITYSCAPES.counts
    assert counts == {"train": 2975, "val": 500, "trainval": 3475, "test": 1525, "train_extra": 19998}
    assert len(CITYSCAPES_CLASS_WEIGHTS) == 19
    assert sum(CITYSCAPES_CLASS_WEIGHTS) / 19 == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize(
    ("split", "first", "number"),
    [
        ("train", "aachen_000000_000019", 6),
        ("val", "lindau_000000_000019", 3),
        ("trainval", "aachen_000000_000019", 9),
        ("test", "bonn_000000_000019", 2),
        ("train_extra", "erlangen_000000_000019", 2),
    ],
)
def test_splits_are_found_in_order(cityscapes_root: Path, split: str, first: str, number: int) -> None:
    samples = cityscapes(cityscapes_root).find_samples(split)
    assert samples[0].name == first
    assert len({sample.name for sample in samples}) == number
    for sample in samples:
        assert sample.image.is_file()
        assert sample.label is not None
        assert sample.label.is_file() is (split != "test")


def test_coarse_labels_train_and_the_test_split_is_predicted(cityscapes_root: Path) -> None:
    data = cityscapes(cityscapes_root, train_split="train_extra")
    data.setup("fit")
    data.setup("predict")
    (batch,) = data.train_dataloader()
    assert sorted(batch["name"]) == ["erlangen_000000_000019", "erlangen_000001_000019"]
    assert [batch["name"] for batch in data.predict_dataloader()] == [["bonn_000000_000019"], ["bonn_000001_000019"]]


def test_train_id_files_replace_missing_label_ids(cityscapes_root: Path) -> None:
    data = cityscapes(cityscapes_root)
    data.setup("validate")
    before = [batch["target"] for batch in data.val_dataloader()]
    for path in sorted((cityscapes_root / "gtFine/val").rglob("*_labelIds.png"))[1:]:
        mapped = CITYSCAPES.encode(read_label(path), path)
        write_image(path.with_name(path.name.replace("labelIds", "labelTrainIds")), mapped)
        path.unlink()
    data = cityscapes(cityscapes_root)
    data.setup("validate")
    for one, two in zip(before, data.val_dataloader(), strict=True):
        assert torch.equal(one, two["target"])


def test_the_test_split_cannot_be_scored() -> None:
    for which in ("train_split", "val_split", "test_split"):
        with pytest.raises(ConfigError, match="Cityscapes test has no labels to train or score with; use predict"):
            cityscapes(Path("nowhere"), **{which: "test"})


def test_a_missing_label_file_is_named_with_its_archive(cityscapes_root: Path) -> None:
    shutil.rmtree(cityscapes_root / "gtFine")
    with pytest.raises(
        Exception, match=r"6 of 6 images of Cityscapes train .*_labelIds\.png.*gtFine_trainvaltest\.zip"
    ):
        cityscapes(cityscapes_root).setup("fit")


def test_genuine_samples_are_read_unchanged(shared_data: Path) -> None:
    data = cityscapes(shared_data / "cityscapes", crop_size=(512, 1024), base_size=2048)
    data.setup("fit")
    data.setup("predict")
    assert [len(loader) for loader in (data.val_dataloader(), data.predict_dataloader())] == [5, 2]
    batch = next(iter(data.val_dataloader()))
    sample = data.find_samples("val")[0]
    np.testing.assert_array_equal(batch["image"][0].permute(1, 2, 0), read_image(sample.image))
    assert sample.label is not None
    ids = read_label(sample.label)
    expected = np.full_like(ids, 255)
    for label in official_labels:
        if not label.ignoreInEval and label.id >= 0:
            expected[ids == label.id] = label.trainId
    np.testing.assert_array_equal(batch["target"][0], expected)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 512, 1024)
    assert batch["size"] == [(1024, 2048)] * 2


def test_train_ids_in_label_id_files_are_a_finding(
    cityscapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    data = CityscapesDataModule(cityscapes_root, batch_size=2, crop_size=(64, 64))
    assert "doubts about the numbering" not in verify(data).findings
    for path in cityscapes_root.rglob("*_labelIds.png"):
        write_image(path, CITYSCAPES.encode(read_label(path), path))
    (doubt,) = verify(data).findings["doubts about the numbering"]
    assert "no label id from 19 to 33 occurs in the labels, as if they were train ids" in doubt


def test_label_ids_in_train_id_files_are_refused(cityscapes_root: Path) -> None:
    for path in cityscapes_root.rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    data = CityscapesDataModule(cityscapes_root, batch_size=2, crop_size=(64, 64), num_workers=0)
    data.setup("validate")
    with pytest.raises(LabelRangeError, match=r"value 19 .*labelTrainIds.png; Cityscapes has train ids 0-18, 255"):
        next(iter(data.val_dataloader()))
