"""Calibration in numpy, over all pixels at once and sorted: slow, and obviously right."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of (N, K), in double precision."""
    powers = np.exp(logits.astype(float) - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def curve(confidence: np.ndarray, is_right: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Pixels, mean confidence and accuracy of the pixels between edges, (3, M)."""
    rows = []
    for low, high in pairwise(edges):
        inside = (confidence >= low) & ((confidence < high) | (high == edges[-1]))
        number = inside.sum()
        means = (values[inside].mean() if number else np.nan for values in (confidence, is_right))
        rows.append((number, *means))
    return np.array(rows).T


def error(of_bins: np.ndarray) -> float:
    pixels, confidence, accuracy = of_bins
    return float(np.nansum(pixels * abs(accuracy - confidence)) / pixels.sum())


def equal_width(confidence: np.ndarray, is_right: np.ndarray, bins: int) -> np.ndarray:
    return curve(confidence, is_right, np.linspace(0, 1, bins + 1))


def equal_mass(confidence: np.ndarray, is_right: np.ndarray, bins: int) -> np.ndarray:
    order = np.argsort(confidence, kind="stable")
    parts = [(confidence[part], is_right[part]) for part in np.array_split(order, bins)]
    return np.array([(len(one), one.mean(), right.mean()) for one, right in parts]).T


def nll(logits: np.ndarray, target: np.ndarray, temperature: float = 1.0) -> float:
    shifted = (logits.astype(float) - logits.max(1, keepdims=True)) / temperature
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(target)), target]).mean())


def best_temperature(logits: np.ndarray, target: np.ndarray) -> float:
    """By golden-section search over the logarithm of the temperature."""
    low, high, ratio = np.log(1 / 16), np.log(16), (np.sqrt(5) - 1) / 2
    while high - low > 1e-7:
        one, other = high - ratio * (high - low), low + ratio * (high - low)
        if nll(logits, target, np.exp(one)) < nll(logits, target, np.exp(other)):
            high = other
        else:
            low = one
    return float(np.exp((low + high) / 2))
