from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hrseg.errors import ConfigError
from hrseg.metrics import BoundaryScores
from hrseg.metrics.boundary import border_band, boundary_region

K = 3


def pair(seed: int, size: tuple[int, int] = (17, 23)) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and target in blobs, some of it ignored; the last class never occurs in seed 1."""
    rng = np.random.default_rng(seed)
    classes = K if seed != 1 else K - 1
    coarse = rng.integers(0, classes, (2, size[0] // 5 + 1, size[1] // 5 + 1))
    prediction, target = (np.kron(x, np.ones((5, 5), int))[: size[0], : size[1]].astype(np.uint8) for x in coarse)
    target[:3, 4:9] = 255
    return prediction, target


def within(row: int, column: int, distance: int, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """All places in a square around a pixel, those outside the image included."""
    steps = range(-distance, distance + 1)
    return [(row + down, column + right) for down in steps for right in steps]


def brute_region(mask: np.ndarray, distance: int) -> set[tuple[int, int]]:
    region = set()
    for row, column in np.argwhere(mask).tolist():
        for y, x in within(row, column, distance, mask.shape):
            if not (0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]) or not mask[y, x]:
                region.add((row, column))
    return region


def brute_band(target: np.ndarray, width: int) -> set[tuple[int, int]]:
    edges = set()
    height, breadth = target.shape
    for row in range(height):
        for column in range(breadth):
            for y, x in ((row + 1, column), (row, column + 1)):
                known = y < height and x < breadth and 255 not in (target[row, column], target[y, x])
                if known and target[row, column] != target[y, x]:
                    edges |= {(row, column), (y, x)}
    band = {place for edge in edges for place in within(*edge, width - 1, target.shape)}
    return {(y, x) for y, x in band if 0 <= y < height and 0 <= x < breadth and target[y, x] != 255}


def places(mask: np.ndarray) -> set[tuple[int, int]]:
    return {tuple(place) for place in np.argwhere(mask).tolist()}


@pytest.mark.parametrize("distance", [1, 2, 4])
def test_regions_are_those_of_a_search_around_each_pixel(distance: int) -> None:
    for seed in range(3):
        _, target = pair(seed)
        for train_id in range(K):
            assert places(boundary_region(target == train_id, distance)) == brute_region(target == train_id, distance)
        assert places(border_band(target, 255, distance)) == brute_band(target, distance)


def test_scores_are_those_of_sets_of_pixels() -> None:
    metric = BoundaryScores(K, boundary_share=0.06, trimap_width=2)
    intersections, unions = [0] * K, [0] * K
    hits, numbers = [0] * K, [0] * K
    for seed in range(3):
        prediction, target = pair(seed)
        metric.update(torch.from_numpy(prediction), torch.from_numpy(target))
        distance = round(0.06 * math.hypot(*target.shape))
        seen = np.where(target == 255, 255, prediction)
        for train_id in range(K):
            first, second = brute_region(target == train_id, distance), brute_region(seen == train_id, distance)
            intersections[train_id] += len(first & second)
            unions[train_id] += len(first | second)
        for place in brute_band(target, 2):
            numbers[target[place]] += 1
            hits[target[place]] += prediction[place] == target[place]
    scores = metric.compute()
    assert scores["boundary_iou"].tolist() == pytest.approx([a / b for a, b in zip(intersections, unions, strict=True)])
    assert scores["trimap_accuracy_per_class"].tolist() == pytest.approx(
        [a / b for a, b in zip(hits, numbers, strict=True)]
    )
    assert scores["boundary_miou"].item() == pytest.approx(scores["boundary_iou"].mean().item())


def test_a_perfect_prediction_scores_one_and_absent_classes_are_left_out() -> None:
    _, target = pair(1)
    metric = BoundaryScores(K)
    metric.update(torch.from_numpy(np.where(target == 255, 0, target)), torch.from_numpy(target))
    scores = metric.compute()
    assert scores["boundary_miou"] == scores["trimap_accuracy"] == 1
    assert scores["boundary_iou"][K - 1].isnan()


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match="expected more than 0, and 1 or more"):
        BoundaryScores(K, boundary_share=0)
    with pytest.raises(ConfigError, match="trimap_width 0"):
        BoundaryScores(K, trimap_width=0)
