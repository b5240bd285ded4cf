from __future__ import annotations

import weakref
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch

from hrseg.data.labels import LabelTable
from hrseg.errors import DataFileError, OutputError
from hrseg.inference import Predictor
from hrseg.inference.certainty import CertaintyOptions
from hrseg.inference.image_files import predict_files
from hrseg.utils.images import read_image, read_label, write_image

TABLE = LabelTable("toy", ("a", "b"), ((250, 0, 0), (0, 250, 0)), label_ids=(7, 11), void_ids=(0,))


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(torch.nn.Conv2d(3, 2, 1), TABLE, device="cpu")


def images(folder: Path, number: int) -> dict[str, Path]:
    generator = np.random.default_rng(0)
    for index in range(number):
        write_image(folder / f"{index}.png", generator.integers(0, 256, (8, 9 + index, 3), dtype=np.uint8))
    return {str(index): folder / f"{index}.png" for index in range(number)}


def test_every_file_gets_its_own_labels(predictor: Predictor, tmp_path: Path) -> None:
    found = images(tmp_path / "in", 12)
    assert list(predict_files(predictor, found, tmp_path / "out")) == [None] * 12
    for name, path in found.items():
        written = read_label(tmp_path / "out" / "labels" / f"{name}.png")
        np.testing.assert_array_equal(written, TABLE.decode(predictor(path)))
        assert read_image(tmp_path / "out" / "overlays" / f"{name}.png").shape[1] == 9 + int(name)


@pytest.mark.parametrize("bits", [8, 16])
def test_certainty_is_that_of_the_predictor(bits: Literal[8, 16], predictor: Predictor, tmp_path: Path) -> None:
    """Confidence to half a level of its bits, all classes to the precision of float16."""
    found = images(tmp_path / "in", 5)
    assert not any(predict_files(predictor, found, tmp_path / "out", CertaintyOptions(bits, True)))
    for name, path in found.items():
        labels, probabilities = predictor(path, probabilities=True)
        stored = cv2.imread(str(tmp_path / "out" / "confidence" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert stored is not None
        assert stored.dtype == f"uint{bits}"
        confidence = np.take_along_axis(probabilities, labels[None], 0)[0]
        np.testing.assert_allclose(stored / (2**bits - 1), confidence, atol=0.5001 / (2**bits - 1))
        with np.load(tmp_path / "out" / "probabilities" / f"{name}.npz") as file:
            assert file["probabilities"].dtype == np.float16
            np.testing.assert_array_equal(file["probabilities"], probabilities.astype(np.float16))
        written = read_label(tmp_path / "out" / "labels" / f"{name}.png")
        np.testing.assert_array_equal(written, TABLE.decode(labels))


def test_no_files(predictor: Predictor, tmp_path: Path) -> None:
    assert list(predict_files(predictor, {}, tmp_path)) == []


def test_only_what_is_wanted_is_written(predictor: Predictor, tmp_path: Path) -> None:
    found = images(tmp_path / "in", 1)
    for options, kinds in ((CertaintyOptions(), set()), (CertaintyOptions(8), {"confidence"})):
        assert not any(predict_files(predictor, found, tmp_path / "out", options))
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"labels", "overlays", *kinds}


def test_what_is_left_out_keeps_its_place(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part finds out: reading, the network or writing."""
    found = images(tmp_path / "in", 6)
    found["1"].write_bytes(b"no image")
    found = {"n" * 300 if name == "2" else name: path for name, path in found.items()}
    segment = predictor.segment

    def refusing(image: np.ndarray, reduce: None) -> tuple[np.ndarray, None]:
        if image.shape[1] == 9 + 4:
            raise DataFileError("too large")
        return segment(image, reduce)

    monkeypatch.setattr(predictor, "segment", refusing)
    reasons = list(predict_files(predictor, found, tmp_path / "out"))
    assert [reason is None for reason in reasons] == [True, False, False, True, False, True]
    assert reasons[1] is not None
    assert str(found["1"]) in reasons[1]
    assert reasons[2] == f"{found['n' * 300]}: its output has too long a name; rename it"
    assert reasons[4] == f"{found['4']}: too large"


def test_a_folder_that_cannot_be_written_to_ends_it(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"out/labels/0\.png cannot be written"):
        list(predict_files(predictor, images(tmp_path / "in", 6), tmp_path / "out"))


def test_memory_is_flat(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a few images live at a time, however many there are."""
    alive: set[int] = set()
    most = 0

    def read(path: Path) -> np.ndarray:
        nonlocal most
        pixels, number = np.full((8, 8, 3), 100, np.uint8), int(path.stem)
        alive.add(number)
        weakref.finalize(pixels, alive.discard, number)
        most = max(most, len(alive))
        return pixels

    monkeypatch.setattr("hrseg.inference.image_files.read_image", read)
    found = {str(number): Path(f"{number}.png") for number in range(300)}
    monkeypatch.setattr("hrseg.inference.image_files.write_prediction", lambda *_: None)
    assert list(predict_files(predictor, found, tmp_path)) == [None] * 300
    assert 1 < most < 20

    most = 0
    monkeypatch.setattr("hrseg.inference.image_files._HUGE", 50)
    found = images(tmp_path / "in", 30)
    assert list(predict_files(predictor, found, tmp_path)) == [None] * 30
    assert 1 < most < 7
