from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.trainer.states import TrainerFn

from hrseg.data.dataset import Sample, read_sample
from hrseg.data.datasets.camvid import CAMVID, CamVidDataModule
from hrseg.data.datasets.folder import FolderDataModule
from hrseg.errors import ConfigError, DataFileError, DataNotFoundError, LabelRangeError, UnknownNameError
from hrseg.utils.images import read_label, write_image
from tests.conftest import write_jpeg

TWO = {"names": ["a", "b"]}


CLASSES = """\
names: [ground, left arm, right arm]
colors: [[128, 64, 128], [0, 0, 250], [250, 0, 0]]
ids: [1, 4, 7]
ignore: [0, [0, 0, 0]]
flip_pairs: [[left arm, right arm]]
"""


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    """10 images of 48x64 and their masks in two folders, with classes.yaml; masks hold ids, palettes or colours."""
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
    (root / "classes.yaml").write_text(CLASSES)
    return root


def folder(root: Path, **settings: Any) -> FolderDataModule:
    return FolderDataModule(root, **{"batch_size": 2, "crop_size": (32, 32), "num_workers": 0, **settings})


def names(data: FolderDataModule, split: str) -> list[str]:
    return [sample.name for sample in data.find_samples(split)]


def write_pairs(root: Path, stems: str, image_suffix: str = "", mask_suffix: str = "") -> None:
    for stem in stems.split():
        write_image(root / "images" / f"{stem}{image_suffix}.png", np.zeros((32, 32, 3), np.uint8))
        write_image(root / "masks" / f"{stem}{mask_suffix}.png", np.zeros((32, 32), np.uint8))


def test_ids_palettes_and_colors_are_the_same_classes(folder_root: Path) -> None:
    data = folder(folder_root)
    assert (data.labels.name, data.num_classes, data.labels.flip_pairs) == ("mine", 3, ((1, 2),))
    samples = {sample.name: sample for split in ("train", "val", "test") for sample in data.find_samples(split)}
    rng = np.random.default_rng(0)
    for name in sorted(samples, key=lambda name: name[-2:]):  # in the order in which the fixture wrote them
        rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        ids = rng.choice(np.array([0, 1, 4, 7], np.uint8), (48, 64))
        expected = np.select([ids == 1, ids == 4, ids == 7], [0, 1, 2], 255)
        np.testing.assert_array_equal(read_sample(samples[name], data.labels)["mask"], expected)


def test_it_trains_validates_and_predicts(folder_root: Path) -> None:
    data = folder(folder_root)
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    assert next(iter(data.train_dataloader()))["target"].shape == (2, 32, 32)
    assert next(iter(data.val_dataloader()))["target"].shape == (1, 48, 64)
    (batch,) = data.predict_dataloader()
    assert "target" not in batch


def test_a_color_outside_the_table_is_named_with_file_pixels_and_colors(folder_root: Path) -> None:
    path = folder_root / "masks" / "right" / "02.png"
    mask = read_label(path, in_color=True).copy()
    mask[0, :5] = (1, 2, 3)
    write_image(path, mask)
    sample = Sample("02", folder_root / "images" / "right" / "02.jpg", path)
    with pytest.raises(LabelRangeError) as caught:
        read_sample(sample, folder(folder_root).labels)
    message = str(caught.value)
    assert message.startswith(f"colour (1, 2, 3) (5 pixels) in {path}; mine has the colours (128, 64, 128), ")
    assert "\n" not in message


def test_random_splits_are_disjoint_and_the_same_everywhere(folder_root: Path) -> None:
    data = folder(folder_root)
    assert [len(names(data, split)) for split in data.splits] == [8, 1, 9, 1]
    assert sorted(names(data, "trainval") + names(data, "test")) == sorted(
        f"{'left' if number % 2 else 'right'}/{number:02d}" for number in range(10)
    )
    # constants: every machine and version of NumPy must give these
    assert (names(data, "val"), names(data, "test")) == (["left/07"], ["left/05"])
    assert names(folder(folder_root, seed=5), "val") == names(data, "val")
    assert len({tuple(names(folder(folder_root, split_seed=seed), "val")) for seed in range(8)}) > 3
    halves = folder(folder_root, splits={"train": 0.5, "val": 0.5})
    assert [len(names(halves, split)) for split in halves.splits] == [5, 5, 10, 0]


def test_few_images_leave_no_split_empty(tmp_path: Path) -> None:
    write_pairs(tmp_path, "a b c")
    data = folder(tmp_path, classes=TWO)
    assert [len(names(data, split)) for split in data.splits] == [1, 1, 2, 1]


def test_sub_folders_are_splits_and_win_over_lists(tmp_path: Path) -> None:
    write_pairs(tmp_path, "train/b train/a train/day/c val/d")
    (tmp_path / "train.txt").write_text("val/d\n")
    data = folder(tmp_path, classes=TWO)
    assert names(data, "train") == ["train/a", "train/b", "train/day/c"]
    assert names(data, "trainval") == [*names(data, "train"), "val/d"]
    assert names(data, "test") == []
    assert data.find_samples("val")[0].label == tmp_path / "masks" / "val" / "d.png"


def test_lists_win_over_random_shares(tmp_path: Path) -> None:
    write_pairs(tmp_path, "a b c day/d")
    (tmp_path / "train.txt").write_text("c\nday/d\n")
    (tmp_path / "val.txt").write_text("a\n")
    data = folder(tmp_path, classes=TWO)
    assert [names(data, split) for split in ("train", "val", "test")] == [["c", "day/d"], ["a"], []]
    (tmp_path / "val.txt").write_text("a\nx\ny\n")
    with pytest.raises(
        DataNotFoundError, match=r"2 of 3 images that .*val\.txt names are missing, the first is x; expe"
    ):
        data.find_samples("val")


def test_splits_may_have_any_names(tmp_path: Path) -> None:
    write_pairs(tmp_path, "a/1 a/2 b/3 train/4")
    by_folder = folder(tmp_path, classes=TWO, splits={"train": "a", "val": "b"})
    assert [names(by_folder, split) for split in by_folder.splits] == [
        ["a/1", "a/2"],
        ["b/3"],
        ["a/1", "a/2", "b/3"],
        [],
    ]
    (tmp_path / "fold_1.txt").write_text("b/3.png\na/1.png\n")
    (tmp_path / "fold_2.txt").write_text("train/4\n")
    by_list = folder(tmp_path, classes=TWO, splits={"train": "fold_1.txt", "val": "fold_2.txt"})
    assert names(by_list, "trainval") == ["b/3", "a/1", "train/4"]
    with pytest.raises(DataFileError, match=r"fold_3\.txt cannot be read"):
        names(folder(tmp_path, classes=TWO, splits={"train": "fold_1.txt", "val": "fold_3.txt"}), "val")
    with pytest.raises(UnknownNameError, match=r"unknown split in data\.splits 'valid'; did you mean val"):
        folder(tmp_path, classes=TWO, splits={"train": "a", "valid": "b"})


def test_suffixes_are_stripped_and_other_files_left_out(tmp_path: Path) -> None:
    write_pairs(tmp_path, "a b c", "_rgb", "_mask")
    write_image(tmp_path / "images" / "a_depth.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "images" / "._a_rgb.png").write_bytes(b"what a Mac leaves")
    data = folder(tmp_path, classes=TWO, image_suffix="_rgb", mask_suffix="_mask")
    samples = {sample.name: sample for split in ("train", "val", "test") for sample in data.find_samples(split)}
    assert sorted(samples) == ["a", "b", "c"]
    assert samples["a"].image == tmp_path / "images" / "a_rgb.png"
    assert samples["a"].label == tmp_path / "masks" / "a_mask.png"


def test_masks_may_lie_beside_the_images(tmp_path: Path) -> None:
    for stem in "abc":
        write_image(tmp_path / f"{stem}.png", np.zeros((8, 8, 3), np.uint8))
        write_image(tmp_path / f"{stem}_mask.png", np.zeros((8, 8), np.uint8))
    data = folder(tmp_path, classes=TWO, images=".", masks=".", mask_suffix="_mask")
    assert sorted(names(data, "trainval") + names(data, "test")) == ["a", "b", "c"]


@pytest.mark.parametrize("mask_suffix", ["_1st", "_1st.png"])
def test_masks_of_two_annotators_may_lie_beside_the_images(mask_suffix: str, tmp_path: Path) -> None:
    for stem in "abc":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{stem}.jpg")
        for annotator in ("1st", "2nd"):
            write_image(tmp_path / f"{stem}_{annotator}.png", np.zeros((32, 32), np.uint8))
    data = folder(tmp_path, classes=TWO, images=".", masks=".", image_suffix=".jpg", mask_suffix=mask_suffix)
    samples = [sample for split in ("train", "val", "test") for sample in data.find_samples(split)]
    assert sorted((sample.image.name, sample.label.name) for sample in samples if sample.label) == [
        (f"{stem}.jpg", f"{stem}_1st.png") for stem in "abc"
    ]
    (tmp_path / "a_1st.png").unlink()
    again = folder(tmp_path, classes=TWO, images=".", masks=".", image_suffix=".jpg", mask_suffix=mask_suffix)
    labels = [sample.label for split in ("train", "val", "test") for sample in again.find_samples(split)]
    assert tmp_path / "a_1st.png" in labels  # the expected path


def test_images_and_masks_may_lie_in_a_folder_of_each_split(tmp_path: Path) -> None:
    for part, stems in {"train": "a day/b", "val": "c"}.items():
        write_pairs(tmp_path / part, stems, f"_{part}", "_m")
    data = folder(tmp_path, classes=TWO, image_suffix=["_train", "_val"], mask_suffix="_m")
    assert names(data, "trainval") == ["train/a", "train/day/b", "val/c"]
    for stage in ("fit", "test"):
        data.setup(stage)
    (tmp_path / "val" / "masks" / "c_m.png").unlink()
    data = folder(tmp_path, classes=TWO, image_suffix=["_train", "_val"], mask_suffix="_m")
    with pytest.raises(DataNotFoundError, match=r"expected .*/val/masks/c_m\.png"):
        data.setup("test")
    write_pairs(tmp_path / "train", "a", "_val", "_m")
    with pytest.raises(DataFileError, match=r"a_train\.png and .*a_val\.png have the same name"):
        folder(tmp_path, classes=TWO, image_suffix=["_train", "_val"], mask_suffix="_m")


def test_without_a_test_split_val_is_tested_and_predicted_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: `verify` returned 1, and `test` failed without naming `--data.test_split val`."""
    write_pairs(tmp_path, "train/a train/b val/c")
    data = folder(tmp_path, classes=TWO)
    assert (data.test_split, data.predict_split) == ("val", "val")
    data.setup("fit")
    assert caplog.text == ""
    data.setup(TrainerFn.TESTING)  # as Lightning does; the message said `TrainerFn.TESTING`
    data.setup("predict")
    assert "has no split test: `hrseg test` takes val" in caplog.text
    assert "`hrseg predict` takes val" in caplog.text
    with pytest.raises(DataNotFoundError, match=r"no image of .* test in .*, or give --data\.test_split val\. "):
        folder(tmp_path, classes=TWO, test_split="test").setup("test")
    write_pairs(tmp_path, "test/d")
    data = folder(tmp_path, classes=TWO)
    assert (data.test_split, data.predict_split) == ("test", "test")


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    write_pairs(tmp_path / "store", "a b")
    (tmp_path / "mine" / "images").mkdir(parents=True)
    (tmp_path / "mine" / "images" / "train").symlink_to(tmp_path / "store" / "images")
    assert names(folder(tmp_path / "mine", classes=TWO), "train") == ["train/a", "train/b"]


def test_two_images_of_the_same_name_are_reported(tmp_path: Path) -> None:
    write_pairs(tmp_path, "a")
    shutil.copy(tmp_path / "images" / "a.png", tmp_path / "images" / "a.jpg")
    with pytest.raises(DataFileError, match=r"images/a\.jpg and .*images/a\.png have the same name"):
        folder(tmp_path, classes=TWO).find_samples("train")


def test_an_image_without_mask_is_named_with_the_mask_expected(tmp_path: Path) -> None:
    write_pairs(tmp_path, "train/a val/b")
    (tmp_path / "masks" / "val" / "b.png").unlink()
    with pytest.raises(DataNotFoundError, match=r"val/b\.png; expected .*masks/val/b_m\.png"):
        folder(tmp_path, classes=TWO, mask_suffix="_m").setup("validate")


def test_a_missing_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no folder .*gone; expected images in images/ and masks"):
        folder(tmp_path / "gone", classes=TWO).setup("fit")
    with pytest.raises(DataNotFoundError, match=r"no image of .* train in .*Set data\.images and data\.masks"):
        folder(tmp_path, classes=TWO).setup("fit")
    with pytest.raises(ConfigError, match=r"classes\.yaml cannot be read.*hrseg verify --guess"):
        folder(tmp_path / "gone")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"splits": {"train": 0.8, "val": 0.1, "test": 0.2}}, r"data\.splits is .*; expected shares above 0"),
        ({"splits": {"train": 1.2, "val": 0.1, "test": -0.3}}, r"expected shares above 0"),
        ({"splits": {"train": 0.5, "val": "val"}}, r"or a folder or list for each"),
        ({"splits": {"train": 1.0}}, r"data\.splits is .*; expected train and val"),
        ({"split_seed": -1}, r"data\.split_seed is -1; expected 0 or more"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        folder(Path("nowhere"), classes=TWO, **settings)


def test_genuine_frames_read_the_same_from_ids_and_from_colors(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "camvid"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "val").symlink_to(root / "val")
    official = CamVidDataModule(root, 2, (32, 32)).find_samples("val")[:5]
    for sample in official:
        assert sample.label is not None
        picture = CAMVID.colorize(CAMVID.encode(read_label(sample.label), sample.label))
        write_image(tmp_path / "masks" / "val" / f"{sample.name}.png", picture)
    classes = {"names": CAMVID.class_names, "colors": CAMVID.colors, "ignore": [(0, 0, 0)]}
    data = folder(tmp_path, classes=classes)
    for sample, original in zip(data.find_samples("val")[:5], official, strict=True):
        assert sample.name == f"val/{original.name}"
        colored, ids = read_sample(sample, data.labels), read_sample(original, CAMVID)
        np.testing.assert_array_equal(colored["image"], ids["image"])
        np.testing.assert_array_equal(colored["mask"], ids["mask"])
