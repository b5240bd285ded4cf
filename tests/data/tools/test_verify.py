from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrseg import CamVidDataModule, CityscapesDataModule, FolderDataModule, SegmentationDataModule
from hrseg.data.datasets.camvid import CAMVID
from hrseg.data.datasets.cityscapes import CITYSCAPES
from hrseg.data.tools.verify import Report, verify
from hrseg.errors import DataNotFoundError
from hrseg.utils.images import read_label, write_image


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def camvid(root: Path, **settings: Any) -> CamVidDataModule:
    return CamVidDataModule(root, 2, (32, 32), **settings)


def only(report: Report, kind: str) -> str:
    """The only message of a report."""
    assert list(report.findings) == [kind]
    (message,) = report.findings[kind]
    assert "\n" not in message
    return message


def assert_counted(report: Report, data: SegmentationDataModule, split: str) -> None:
    """Compares with a loop over files and classes."""
    pixels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for sample in data.find_samples(split):
        assert sample.label is not None
        label = data.labels.encode(read_label(sample.label, in_color=True), sample.label)
        for k in range(data.num_classes):
            pixels[k] += int((label == k).sum())
            images[k] += bool((label == k).any())
    assert report.counts[split].pixels.tolist() == [pixels[k] for k in range(data.num_classes)]
    assert report.counts[split].images.tolist() == [images[k] for k in range(data.num_classes)]


def test_a_sound_data_set_is_counted_split_by_split(camvid_root: Path) -> None:
    data = camvid(camvid_root)
    report = verify(data)
    assert (report.findings, report.num_images, report.num_read) == ({}, {"train": 5, "val": 2}, 7)
    for split in ("train", "val"):
        assert_counted(report, data, split)
    weights = report.class_weights()
    assert [np.mean(rule) for rule in weights.values()] == pytest.approx([1, 1], abs=1e-4)
    assert verify(camvid(camvid_root, train_split="trainval")).num_images == {"train": 5, "val": 2, "trainval": 7}


def label(root: Path, split: str, name: str, *ids: int) -> None:
    write_image(root / "images" / split / f"{name}.png", np.random.default_rng().integers(0, 256, (8, 8, 3), np.uint8))
    write_image(root / "masks" / split / f"{name}.png", np.resize(np.array(ids, np.uint8), (8, 8)))


def test_absent_classes_and_ignored_labels_are_reported_with_counts(tmp_path: Path) -> None:
    classes = {"names": ["a", "b", "c"], "ignore": [9]}
    for split, name, *ids in (("train", "1", 0, 9), ("train", "2", 9), ("val", "3", 9, 255), ("val", "4", 1)):
        label(tmp_path, split, name, *ids)  # type: ignore[arg-type]
    report = verify(FolderDataModule(tmp_path, classes))
    assert report.findings == {}
    assert report.remarks == [
        f"train: 1 of 2 labels hold ignored pixels only, such as {tmp_path}/masks/train/2.png",
        f"val: 1 of 2 labels hold ignored pixels only, such as {tmp_path}/masks/val/3.png",
        "train: 2 of 3 classes never occur and cannot be learnt: b, c; in val there are b",
        "train: every pixel that is not ignored is a: there is nothing to tell apart. Should the background be a "
        "class, too?",
        "`hrseg test` scores val, as validation does",
    ]
    assert (report.num_files, report.num_read) == (4, 4)


def test_a_split_without_a_pixel_of_a_class_is_a_finding(tmp_path: Path) -> None:
    """Regression: the loss was 0.0 and the mIoU nan without a message."""
    for split, name, *ids in (("train", "1", 255), ("train", "2", 255), ("val", "3", 0, 1)):
        label(tmp_path, split, name, *ids)  # type: ignore[arg-type]
    message = only(verify(FolderDataModule(tmp_path, {"names": ["a", "b"]})), "splits in which every pixel is ignored")
    assert message.startswith("train: all 2 labels hold ignored pixels only, such as ")


def test_ids_palettes_and_colors_give_the_same_counts(folder_root: Path) -> None:
    data = FolderDataModule(folder_root)
    report = verify(data)
    assert (report.findings, report.num_images) == ({}, {"train": 8, "val": 1, "test": 1})
    for split in report.num_images:
        assert_counted(report, data, split)


def test_splits_without_labels_are_checked_for_their_images(cityscapes_root: Path) -> None:
    data = CityscapesDataModule(cityscapes_root, 2, (32, 32))
    report = verify(data)
    assert report.findings == {}
    assert report.num_images == {"train": 6, "val": 3, "test": 2, "train_extra": 2}
    assert set(report.counts) == {"train", "val", "train_extra"}
    assert_counted(report, data, "train")
    broken = data.find_samples("test")[1].image
    broken.write_bytes(b"nothing")
    assert f"{broken} is truncated" in only(verify(data), "files that cannot be used")


def test_an_image_without_mask_and_a_mask_without_image_are_reported(folder_root: Path) -> None:
    (folder_root / "masks" / "left" / "01.png").rename(folder_root / "masks" / "left" / "1.png")
    report = verify(FolderDataModule(folder_root))
    assert report.findings == {
        "missing files": [
            f"{folder_root}/images/left/01.jpg has no label; expected {folder_root}/masks/left/01.png",
            f"{folder_root}/masks/left/1.png has no image",
        ]
    }


def test_names_that_differ_in_their_suffix_are_reported_with_the_remedy_once(folder_root: Path) -> None:
    for path in list(folder_root.glob("masks/*/*.png")):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    first, *others = verify(FolderDataModule(folder_root)).findings["missing files"]
    assert re.search(r"has no label; expected .*\.png\. Set .* data\.image_suffix and data\.mask_suffix if the", first)
    assert len(others) == 19
    assert not any("data.mask_suffix" in message for message in others)


def test_a_split_folder_of_another_name_is_reported_with_the_remedy(folder_root: Path) -> None:
    for kind in ("images", "masks"):
        (folder_root / kind / "left").rename(folder_root / kind / "train")
        (folder_root / kind / "right").rename(folder_root / kind / "valid")
    message = only(verify(FolderDataModule(folder_root)), "missing files")
    assert re.match(r"no image of split val; expected .* data\.splits if those .* \(valid, validation\)", message)


def test_unusable_files_are_reported(camvid_root: Path) -> None:
    (camvid_root / "train" / "0000.png").write_bytes(b"nothing")
    (camvid_root / "trainannot" / "0001.png").write_bytes(b"nothing")
    write_image(camvid_root / "valannot" / "0001.png", np.zeros((48, 65), np.uint8))
    report = verify(camvid(camvid_root))
    (image, label, sizes) = report.findings.pop("files that cannot be used")
    assert "train/0000.png is truncated" in image
    assert "trainannot/0001.png is truncated" in label
    assert "valannot/0001.png is 48x65 and its image" in sizes
    assert report.findings == {}
    assert report.counts["train"].images.tolist() == [3] * 11


def test_a_value_outside_the_table_is_reported_with_its_pixels(camvid_root: Path) -> None:
    path = camvid_root / "valannot" / "0001.png"
    label = read_label(path).copy()
    label[0, :7] = 12
    write_image(path, label)
    message = only(verify(camvid(camvid_root)), "labels with values outside the table")
    assert message.startswith(f"value 12 (7 pixels) in {path}; CamVid has train ids 0-11, 255.")


def test_the_same_image_in_two_splits_is_reported(camvid_root: Path) -> None:
    shutil.copy(camvid_root / "train" / "0003.png", camvid_root / "val" / "0001.png")
    expected = f"the same image: {camvid_root}/train/0003.png (train) and {camvid_root}/val/0001.png (val)"
    for train_split in ("train", "trainval"):
        assert only(verify(camvid(camvid_root, train_split=train_split)), "images in several splits") == expected


def test_an_image_in_two_lists_is_reported(folder_root: Path) -> None:
    (folder_root / "train.txt").write_text("left/01\nright/02\n")
    (folder_root / "val.txt").write_text("left/01\n")
    message = only(verify(FolderDataModule(folder_root)), "images in several splits")
    assert message.count("left/01.jpg") == 2


def test_an_empty_scored_split_is_reported(camvid_root: Path) -> None:
    shutil.rmtree(camvid_root / "val")
    assert "no image of split val; expected SPLIT/*.png" in only(verify(camvid(camvid_root)), "missing files")
    shutil.rmtree(camvid_root / "train")
    with pytest.raises(DataNotFoundError, match=r"no image of CamVid in .*camvid; expected SPLIT/\*\.png"):
        verify(camvid(camvid_root))


def test_a_list_of_missing_images_is_reported_once(folder_root: Path) -> None:
    (folder_root / "train.txt").write_text("left/01\n")
    (folder_root / "val.txt").write_text("gone\n")
    report = verify(FolderDataModule(folder_root, train_split="trainval", val_split="train", test_split="train"))
    assert "1 of 1 images that" in only(report, "missing files")


def test_a_data_set_may_report_doubts_about_its_counts(cityscapes_root: Path) -> None:
    class Doubtful(CityscapesDataModule):
        def check_counts(self, pixels_per_label_id: np.ndarray) -> list[str]:
            return [json.dumps(pixels_per_label_id.tolist())]

    counts = json.loads(only(verify(Doubtful(cityscapes_root, 2, (32, 32))), "doubts about the numbering"))
    expected = [0] * 256
    for path in cityscapes_root.rglob("*_labelIds.png"):
        for value in range(34):
            expected[value if value in CITYSCAPES.label_ids else 0] += int((read_label(path) == value).sum())
    assert counts == expected


def test_files_are_read_again_only_if_they_or_the_table_changed(camvid_root: Path) -> None:
    first = verify(camvid(camvid_root))
    again = verify(camvid(camvid_root))
    assert (first.num_read, again.num_read) == (7, 0)
    assert again.to_dict() == first.to_dict()

    (camvid_root / "trainannot" / "0002.png").write_bytes(b"nothing")
    write_image(camvid_root / "val" / "0000.png", np.zeros((48, 64, 3), np.uint8))
    changed = verify(camvid(camvid_root))
    assert changed.num_read == 2
    assert "0002.png is truncated" in only(changed, "files that cannot be used")
    assert verify(camvid(camvid_root)).findings == changed.findings

    class OneClass(CamVidDataModule):
        labels = CAMVID.from_dict({**CAMVID.to_dict(), "void_ids": [11, 100]})

    assert verify(OneClass(camvid_root, 2, (32, 32))).num_read == 7
    assert verify(camvid(camvid_root)).num_read == 0


def test_another_pixel_limit_invalidates_the_cache(camvid_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRSEG_MAX_PIXELS", "3000")
    assert "more than the 3000 that are decoded" in str(verify(camvid(camvid_root)).findings)
    monkeypatch.delenv("HRSEG_MAX_PIXELS")
    assert verify(camvid(camvid_root)).findings == {}


def test_a_damaged_or_unwritable_cache_only_costs_time(
    camvid_root: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = verify(camvid(camvid_root))
    (cache,) = (home / "verify").glob("*.json")
    for content in ("", "[]", '{"key": 1}', '{"key": [1]}'):
        cache.write_text(content)
        report = verify(camvid(camvid_root))
        assert (report.num_read, report.to_dict()) == (7, first.to_dict())
    shutil.rmtree(home)
    home.write_text("a file")
    assert verify(camvid(camvid_root)).to_dict() == first.to_dict()
    assert "cannot be written" in caplog.text


def test_what_was_read_before_an_interruption_is_kept(camvid_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(function: Any, items: Any, what: str) -> Any:
        yield from map(function, items[:4])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hrseg.data.cache.map_in_processes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            verify(camvid(camvid_root))
    assert verify(camvid(camvid_root)).num_read == 3


def test_genuine_pairs_in_either_order_of_classes(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "pascal_context"
    (tmp_path / "images").symlink_to(root / "JPEGImages")
    (tmp_path / "masks").symlink_to(root / "labels_vocfirst60")
    data = FolderDataModule(tmp_path, {"names": [f"class {k}" for k in range(60)]})
    report = verify(data)
    assert (report.findings, report.num_images) == ({}, {"train": 32, "val": 4, "test": 4})
    assert_counted(report, data, "train")
    narrower = FolderDataModule(tmp_path, {"names": [f"class {k}" for k in range(59)]})
    assert set(verify(narrower).findings) == {"labels with values outside the table"}
