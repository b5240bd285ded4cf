from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hrseg.data.datasets.camvid import CAMVID, CamVidDataModule
from hrseg.utils.images import write_image


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


def camvid(root: Path, **settings: Any) -> CamVidDataModule:
    return CamVidDataModule(root, **{"batch_size": 2, "crop_size": (32, 32), "num_workers": 0, **settings})


def test_void_is_ignored_and_every_other_number_is_a_class() -> None:
    label = np.arange(12, dtype=np.uint8)[None]
    np.testing.assert_array_equal(CAMVID.encode(label, "a.png"), [[*range(11), 255]])
    np.testing.assert_array_equal(CAMVID.decode(CAMVID.encode(label, "a.png")), label)
    assert len(set(CAMVID.colors)) == CAMVID.num_classes == 11


def test_splits_are_found_by_name(camvid_root: Path) -> None:
    write_image(camvid_root / "test" / "a.png", np.zeros((48, 64, 3), np.uint8))
    data = camvid(camvid_root, train_split="trainval")
    assert [len(data.find_samples(split)) for split in data.splits] == [5, 2, 7, 1]
    sample = data.find_samples("val")[1]
    assert (sample.name, sample.image, sample.label) == (
        "0001",
        camvid_root / "val" / "0001.png",
        camvid_root / "valannot" / "0001.png",
    )
    data.setup("predict")
    assert [batch["name"] for batch in data.predict_dataloader()] == [["a"]]


def test_the_genuine_data_set_is_complete(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = camvid(shared_data / "camvid", crop_size=(240, 320), eval_batch_size=4)
    data.setup("fit")
    assert caplog.text == ""  # no warning of a partial copy
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (4, 3, 360, 480)
    ids = np.asarray(Image.open(data.find_samples("val")[2].label))
    np.testing.assert_array_equal(batch["target"][2], np.where(ids == 11, 255, ids))
    assert next(iter(data.train_dataloader()))["image"].shape == (2, 3, 240, 320)
