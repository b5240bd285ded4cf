"""Images that `hrseg export --precision int8` calibrates with."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hrseg.cli import export as verb
from hrseg.cli.source import Source
from hrseg.data.dataset import Sample
from hrseg.errors import ConfigError, DataNotFoundError

_OPTIONS = Namespace(trust=False, max_drop=0.25)


def _source(run_dir: Path | None) -> Source:
    network: Any = None
    return Source(network, network, run_dir, "")


def _pictures(folder: Path, number: int) -> list[Path]:
    paths = [folder / f"{index}.png" for index in range(number)]
    for index, path in enumerate(paths):
        Image.fromarray(np.full((4, 5, 3), index, np.uint8)).save(path)
    return paths


def test_weights_from_elsewhere_need_images() -> None:
    with pytest.raises(ConfigError, match="no images to calibrate int8 with, give --images: weights from elsewhere"):
        verb._quantization(_source(None), None, [], _OPTIONS)


def test_given_images_calibrate_without_a_run(tmp_path: Path) -> None:
    found = verb._quantization(_source(None), _pictures(tmp_path, 3), [], _OPTIONS)
    assert [int(image[0, 0, 0]) for image in found.images] == [0, 1, 2]
    assert found.max_drop == 0.25


def test_training_split_calibrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def samples(run_dir: Path, split: str, limit: int, trust: bool) -> tuple[list[Sample], None]:
        assert (split, limit) == ("train", 300)
        return [Sample(path.stem, path, None) for path in _pictures(tmp_path, 2)], None

    monkeypatch.setattr(verb, "samples_of_run", samples)
    found = verb._quantization(_source(tmp_path), [tmp_path / "other.png"], [], _OPTIONS)
    assert [int(image[0, 0, 0]) for image in found.images] == [0, 1]


def test_run_without_its_data_needs_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise DataNotFoundError("no folder data/toy\nuse --data.root")

    monkeypatch.setattr(verb, "samples_of_run", missing)
    with pytest.raises(ConfigError, match="give --images: no folder data/toy") as caught:
        verb._quantization(_source(tmp_path), None, [], _OPTIONS)
    assert "\n" not in str(caught.value)
    assert len(verb._quantization(_source(tmp_path), _pictures(tmp_path, 1), [], _OPTIONS).images) == 1
