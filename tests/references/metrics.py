"""Scores counted pixel by pixel with sets and plain numbers."""

from __future__ import annotations

import math

import numpy as np


def confusion_matrix(preds: np.ndarray, target: np.ndarray, num_classes: int, ignore_index: int = 255) -> np.ndarray:
    matrix = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    for predicted, label in zip(preds.ravel().tolist(), target.ravel().tolist(), strict=True):
        if label != ignore_index:
            matrix[label, num_classes if predicted == ignore_index else predicted] += 1
    return matrix


def iou(preds: np.ndarray, target: np.ndarray, group: set[int], ignore_index: int = 255) -> float:
    """Intersection over union of the pixels of a group of classes, as sets of places; NaN where both are empty."""
    valid = {place for place, label in np.ndenumerate(target) if label != ignore_index}
    truth = {place for place in valid if int(target[place]) in group}
    predicted = {place for place in valid if int(preds[place]) in group}
    return len(truth & predicted) / len(truth | predicted) if truth | predicted else math.nan


def accuracy(preds: np.ndarray, target: np.ndarray, label: int) -> float:
    """Share of the pixels of one class that are predicted right; NaN where there is none."""
    places = [place for place, value in np.ndenumerate(target) if value == label]
    return sum(preds[place] == label for place in places) / len(places) if places else math.nan
