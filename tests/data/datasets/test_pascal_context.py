from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrseg import PASCAL_CONTEXT_59, PASCAL_CONTEXT_60, PascalContextDataModule
from hrseg.data.datasets.pascal_context import looks_voc_first, voc_first_permutation
from hrseg.errors import ConfigError, DataFileError, DataNotFoundError
from hrseg.utils.images import read_label, write_image
from tests.conftest import write_jpeg

ALL_IDS = np.arange(60, dtype=np.uint8)[None]


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


def pascal_context(root: Path, classes: int = 59, **settings: Any) -> PascalContextDataModule:
    return PascalContextDataModule(root, 2, (32, 32), classes=classes, num_workers=0, **settings)


@pytest.fixture
def genuine_root(shared_data: Path, tmp_path: Path) -> Path:
    """A root with the 40 genuine images, all listed as val."""
    root = tmp_path / "VOC2010"
    root.mkdir()
    for folder in ("JPEGImages", "SegmentationClassContext"):
        (root / folder).symlink_to(shared_data / "pascal_context" / folder)
    lists = root / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    names = sorted(path.stem for path in (root / "JPEGImages").glob("*.jpg"))
    (lists / "val.txt").write_text("\n".join(names))
    return root


def test_background_is_a_class_of_60_and_ignored_in_59() -> None:
    np.testing.assert_array_equal(PASCAL_CONTEXT_60.encode(ALL_IDS, "a.png"), ALL_IDS)
    np.testing.assert_array_equal(PASCAL_CONTEXT_59.encode(ALL_IDS, "a.png"), [[255, *range(59)]])
    for table in (PASCAL_CONTEXT_59, PASCAL_CONTEXT_60):
        np.testing.assert_array_equal(table.decode(table.encode(ALL_IDS, "a.png")), ALL_IDS)
        assert table.ignore_index == 255


def test_classes_are_in_alphabetical_order_after_the_background() -> None:
    assert PASCAL_CONTEXT_60.class_names == ("background", *PASCAL_CONTEXT_59.class_names)
    assert list(PASCAL_CONTEXT_59.class_names) == sorted(PASCAL_CONTEXT_59.class_names)
    assert PASCAL_CONTEXT_60.colors[1:] == PASCAL_CONTEXT_59.colors


@pytest.mark.parametrize("classes", [59, 60])
def test_samples_with_59_and_60_classes(pascal_context_root: Path, classes: int) -> None:
    data = pascal_context(pascal_context_root, classes)
    assert data.num_classes == classes
    assert [len(data.find_samples(split)) for split in data.splits] == [5, 3, 8]
    data.setup("fit")
    (first, *_) = data.val_dataloader()
    label = read_label(pascal_context_root / "SegmentationClassContext" / "2008_val_0.png").astype(int)
    np.testing.assert_array_equal(first["target"][0], label if classes == 60 else np.where(label, label - 1, 255))
    data.setup("predict")
    assert len(data.predict_dataloader()) == 3
    with pytest.raises(ConfigError, match=r"data\.classes is 61; expected 59, or 60"):
        pascal_context(pascal_context_root, 61)


def test_the_parent_folder_is_accepted(pascal_context_root: Path) -> None:
    above, itself = pascal_context(pascal_context_root.parent), pascal_context(pascal_context_root)
    assert above.find_samples("trainval") == itself.find_samples("trainval")


@pytest.mark.parametrize(("train", "val"), [(4998, 5105), (4996, 5104)])
def test_either_published_number_of_images_is_complete(
    pascal_context_root: Path, train: int, val: int, caplog: pytest.LogCaptureFixture
) -> None:
    list_file = pascal_context_root / "ImageSets" / "SegmentationContext" / "val.txt"
    data = pascal_context(pascal_context_root)
    data.setup("validate")
    assert "3 images, the complete data set 5105 or 5104" in caplog.text
    caplog.clear()
    list_file.with_name("train.txt").write_text("2008_train_0\n" * train)
    list_file.write_text("2008_val_0\n" * val)
    pascal_context(pascal_context_root, train_split="trainval").setup("fit")
    assert caplog.text == ""


def test_faults_of_a_list_are_reported(pascal_context_root: Path) -> None:
    list_file = pascal_context_root / "ImageSets" / "SegmentationContext" / "val.txt"
    data = pascal_context(pascal_context_root)
    list_file.write_bytes(b"2008_val_1 \r\n2008_val_0\r\n")
    assert [sample.name for sample in data.find_samples("val")] == ["2008_val_1", "2008_val_0"]
    list_file.write_text("2008_val_0\nnobody\n")
    with pytest.raises(DataNotFoundError, match=r"val\.txt names nobody, but no .*nobody\.jpg"):
        data.find_samples("val")
    list_file.write_text("2008_val_0\n../2008_val_0\n")
    with pytest.raises(DataFileError, match=r"val\.txt, line 2: \.\./2008_val_0; expected"):
        data.find_samples("val")
    list_file.unlink()
    with pytest.raises(DataNotFoundError, match=r"no list .*val\.txt; expected .* `hrseg prepare pascal-context`"):
        data.find_samples("val")


def test_the_permutation_maps_voc_first_labels_to_the_genuine_ones(shared_data: Path, genuine_root: Path) -> None:
    maps = json.loads((shared_data / "pascal_context" / "meta" / "class_maps.json").read_text())
    assert list(PASCAL_CONTEXT_60.class_names) == maps["alphabetical_names_mmseg"]
    assert voc_first_permutation() == maps["vocfirst_to_alphabetical"]

    permutation = np.array(voc_first_permutation(), np.uint8)
    data = pascal_context(genuine_root, 60)
    data.setup("validate")
    batches = list(data.val_dataloader())
    assert len(batches) == 40
    for batch in batches:
        other = read_label(shared_data / "pascal_context" / "labels_vocfirst60" / f"{batch['name'][0]}.png")
        np.testing.assert_array_equal(batch["target"][0], permutation[other])
        assert batch["image"].shape[-2:] == batch["target"].shape[-2:]


def test_ten_genuine_labels_tell_the_orders_apart(shared_data: Path, pascal_context_root: Path) -> None:
    def counts(folder: str) -> np.ndarray:
        paths = sorted((shared_data / "pascal_context" / folder).glob("*.png"))
        return np.stack([np.bincount(read_label(path).ravel(), minlength=60) for path in paths])

    alphabetical, voc_first = counts("SegmentationClassContext"), counts("labels_vocfirst60")
    assert not looks_voc_first(alphabetical.sum(0))
    assert looks_voc_first(voc_first.sum(0))
    data = pascal_context(pascal_context_root)
    assert data.check_counts(np.pad(alphabetical.sum(0), (0, 196))) == []
    assert len(data.check_counts(np.pad(voc_first.sum(0), (0, 196)))) == 1
    rng = np.random.default_rng(0)
    for _ in range(200):
        some = rng.choice(40, 10, replace=False)
        assert not looks_voc_first(alphabetical[some].sum(0))
        assert looks_voc_first(voc_first[some].sum(0))


def test_labels_without_pixels_are_not_taken_for_voc_first() -> None:
    assert not looks_voc_first(np.zeros(60, np.int64))
