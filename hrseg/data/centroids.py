"""Centroids of the classes in labels, on which training crops can be centred."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hrseg.data.cache import map_cached
from hrseg.data.dataset import Sample, read_target
from hrseg.data.labels import LabelTable
from hrseg.utils.image_formats import reading_settings

_TILE = 1024  # pixels a side


class Centroid(NamedTuple):
    """The mean position of a class's pixels in one tile of a label.

    Args:
        position: Index of the sample in the data set.
        row: Row in the label file.
        column: Column in the label file.
    """

    position: int
    row: int
    column: int


def find_centroids(samples: Sequence[Sample], labels: LabelTable, root: Path) -> list[list[Centroid]]:
    """Finds the centroids of all classes in all labels, tile by tile; cached until the files change.

    Args:
        samples: Samples with labels.
        labels: The table of the label files.
        root: The data set's folder, part of the cache key.

    Returns:
        The centroids of each class, in train id order, in tiles of 1024x1024 pixels.

    Raises:
        DataFileError: A label cannot be read, or holds a value that is not in the table.

    Source:
        NVIDIA/semantic-segmentation, datasets/uniform.py.
    """
    settings = [_TILE, *reading_settings(), str(root.absolute()), labels.to_dict()]
    found, _ = map_cached(
        partial(_of_label, labels=labels), dict.fromkeys(samples), "centroids", settings, f"scanning {labels.name}"
    )
    centroids: list[list[Centroid]] = [[] for _ in range(labels.num_classes)]
    for position, sample in enumerate(samples):
        for train_id, row, column in found[sample]:
            centroids[train_id].append(Centroid(position, row, column))
    return centroids


def _of_label(sample: Sample, labels: LabelTable) -> list[tuple[int, int, int]]:
    """(train id, row, column) of each class in each tile."""
    target = read_target(sample, labels)
    centroids = []
    for top in range(0, target.shape[0], _TILE):
        for left in range(0, target.shape[1], _TILE):
            tile = target[top : top + _TILE, left : left + _TILE]
            for train_id in np.unique(tile).tolist():
                if train_id != labels.ignore_index:
                    rows, columns = np.nonzero(tile == train_id)
                    centroids.append((train_id, top + round(rows.mean()), left + round(columns.mean())))
    return centroids
