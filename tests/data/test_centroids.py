from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hrseg.data import centroids
from hrseg.data.centroids import Centroid, find_centroids
from hrseg.data.dataset import Sample
from hrseg.data.labels import LabelTable
from hrseg.errors import DataFileError
from hrseg.utils.images import read_label, write_image

TABLE = LabelTable("Toy", ("a", "b", "c", "d"), ((0, 0, 0),) * 4, label_ids=(10, 20, 30, 40), void_ids=(0,))


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(centroids, "_TILE", 16)
    rng = np.random.default_rng(0)
    made = []
    for number in range(3):
        coarse = rng.choice(np.array([0, 10, 20, 30], np.uint8), (5, 6))
        sample = Sample(f"{number}", tmp_path / f"{number}.png", tmp_path / f"{number}_label.png")
        write_image(tmp_path / f"{number}_label.png", np.kron(coarse, np.ones((8, 8), np.uint8)))
        made.append(sample)
    return made


def test_centroids_are_the_means_of_positions_in_each_tile(samples: list[Sample], tmp_path: Path) -> None:
    expected: list[set[Centroid]] = [set() for _ in range(4)]
    for position, sample in enumerate(samples):
        assert sample.label is not None
        label = read_label(sample.label)
        for top in range(0, 40, 16):
            for left in range(0, 48, 16):
                for train_id, label_id in enumerate(TABLE.label_ids or ()):
                    places = [
                        (row, column)
                        for row in range(top, min(top + 16, 40))
                        for column in range(left, min(left + 16, 48))
                        if label[row, column] == label_id
                    ]
                    if places:
                        row, column = (sum(values) / len(places) for values in zip(*places, strict=True))
                        at = top + round(row - top), left + round(column - left)
                        expected[train_id].add(Centroid(position, *at))
    found = find_centroids(samples, TABLE, tmp_path)
    assert [set(places) for places in found] == expected
    assert not found[3]


def test_only_changed_labels_are_scanned_again(samples: list[Sample], tmp_path: Path) -> None:
    first = find_centroids(samples, TABLE, tmp_path)
    path = samples[1].label
    assert path is not None
    write_image(path, np.full((40, 48), 40, np.uint8))
    os.utime(path, ns=(1, 1))
    second = find_centroids(samples, TABLE, tmp_path)
    assert {place.position for place in second[3]} == {1}
    for before, after in zip(first[:3], second[:3], strict=True):
        assert [place for place in before if place.position != 1] == after


def test_an_unreadable_label_is_reported(samples: list[Sample], tmp_path: Path) -> None:
    assert samples[2].label is not None
    samples[2].label.write_bytes(b"no image")
    with pytest.raises(DataFileError, match=r"2_label.png is truncated or no image"):
        find_centroids(samples, TABLE, tmp_path)
