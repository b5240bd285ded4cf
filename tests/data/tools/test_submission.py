from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrseg.data.datasets.cityscapes import CITYSCAPES, CityscapesDataModule
from hrseg.data.datasets.lip import LIPDataModule
from hrseg.data.tools.submission import write_submission
from hrseg.errors import DataFileError, DataNotFoundError, OutputError
from hrseg.utils.images import read_label, write_image


@pytest.fixture
def data(cityscapes_root: Path) -> CityscapesDataModule:
    return CityscapesDataModule(cityscapes_root, batch_size=2, crop_size=(64, 64))


@pytest.fixture
def predictions(data: CityscapesDataModule, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for sample in data.find_samples("test"):
        label = rng.choice(np.array(CITYSCAPES.label_ids, np.uint8), (64, 128))
        write_image(tmp_path / "labels" / f"{sample.name}.png", label)
    return tmp_path / "labels"


def test_the_archive_of_cityscapes(data: CityscapesDataModule, predictions: Path, tmp_path: Path) -> None:
    assert write_submission(data, predictions, tmp_path / "submission.zip") == 2
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert archive.namelist() == [f"bonn_{frame:06d}_000019_pred_labelIds.png" for frame in range(2)]
        archive.extractall(tmp_path / "extracted")
    for frame in range(2):
        packed = read_label(tmp_path / "extracted" / f"bonn_{frame:06d}_000019_pred_labelIds.png")
        np.testing.assert_array_equal(packed, read_label(predictions / f"bonn_{frame:06d}_000019.png"))


def test_the_official_evaluator_finds_the_names(data: CityscapesDataModule) -> None:
    from cityscapesscripts.helpers.csHelpers import getCsFileInfo

    info = getCsFileInfo(data.submission_name("bonn_000001_000019"))
    assert (info.city, info.sequenceNb, info.frameNb) == ("bonn", "000001", "000019")


def test_the_archive_of_lip(lip_root: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "labels" / "0_test.png", np.full((60, 40), 19, np.uint8))
    write_submission(LIPDataModule(lip_root, batch_size=2), tmp_path / "labels", tmp_path / "submission.zip")
    assert zipfile.ZipFile(tmp_path / "submission.zip").namelist() == ["0_test.png"]


def remove(path: Path) -> None:
    path.unlink()


def shrink(path: Path) -> None:
    write_image(path, np.full((32, 64), 7, np.uint8))


def put_train_ids(path: Path) -> None:
    write_image(path, np.full((64, 128), 1, np.uint8))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def cut_the_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:12] + data[20:])


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_gif(path: Path) -> None:
    Image.fromarray(read_label(path)).save(path, "GIF")


def put_floats(path: Path) -> None:
    Image.fromarray(read_label(path).astype(np.float32)).save(path, "TIFF")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            remove,
            DataNotFoundError,
            "1 of 2 images of Cityscapes test have no prediction, .*1_000019",
        ),
        (shrink, DataFileError, r"bonn_000001_000019.png is 32x64 and .*leftImg8bit.png is 64x128"),
        (
            put_train_ids,
            DataFileError,
            r"bonn_000001_000019.png holds \[1\]; expected label ids of Cityscapes",
        ),
        (truncate, DataFileError, "bonn_000001_000019.png is truncated"),
        (cut_the_header, DataFileError, "bonn_000001_000019.png is truncated"),
        (make_pipe, DataNotFoundError, "1 of 2 images of Cityscapes test have no prediction"),
        (put_gif, DataFileError, "bonn_000001_000019.png is no PNG by its content"),
        (put_floats, DataFileError, "bonn_000001_000019.png has 1 band of 32-bit floats"),
    ],
)
def test_predictions_that_a_server_would_refuse_are_refused(
    data: CityscapesDataModule, predictions: Path, tmp_path: Path, spoil: object, error: type[Exception], message: str
) -> None:
    spoil(predictions / "bonn_000001_000019.png")  # type: ignore[operator]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "submission.zip").write_bytes(b"of yesterday")
    with pytest.raises(error, match=message):
        write_submission(data, predictions, tmp_path / "out" / "submission.zip")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["submission.zip"]
    assert (tmp_path / "out" / "submission.zip").read_bytes() == b"of yesterday"


def test_an_unwritable_archive_is_reported(data: CityscapesDataModule, predictions: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match=r"submission.zip cannot be written"):
        write_submission(data, predictions, tmp_path / "file" / "submission.zip")
