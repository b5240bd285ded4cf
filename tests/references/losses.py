"""The losses pixel by pixel, in float64, as their papers and the official code define them.

All take logits (B, K, H, W) and a target (B, H, W) of the same size, as numpy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

Array = np.ndarray


def upsample(logits: Array, height: int, width: int, align_corners: bool) -> Array:
    """Bilinear interpolation of each map, one output pixel at a time."""

    def weights(position: int, small: int, large: int) -> list[tuple[int, float]]:
        if align_corners:
            source = position * (small - 1) / (large - 1)
        else:
            source = max(0.0, (position + 0.5) * small / large - 0.5)
        low = min(int(source), small - 1)
        high = min(low + 1, small - 1)
        return [(low, 1 - (source - low)), (high, source - low)]

    result = np.zeros((*logits.shape[:2], height, width))
    for y in range(height):
        for x in range(width):
            for row, row_weight in weights(y, logits.shape[2], height):
                for column, column_weight in weights(x, logits.shape[3], width):
                    result[:, :, y, x] += row_weight * column_weight * logits[:, :, row, column]
    return result


def valid_pixels(logits: Array, target: Array, ignore_index: int) -> Iterator[tuple[Array, int]]:
    """The logits (K,) and the class of each pixel that counts."""
    for image, labels in zip(logits.astype(np.float64), target, strict=True):
        for y in range(labels.shape[0]):
            for x in range(labels.shape[1]):
                if labels[y, x] != ignore_index:
                    yield image[:, y, x], int(labels[y, x])


def softmax(scores: Array) -> Array:
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def cross_entropy(logits: Array, target: Array, weights: list[float], ignore_index: int = 255) -> float:
    total, divisor = 0.0, 0.0
    for scores, label in valid_pixels(logits, target, ignore_index):
        total -= weights[label] * math.log(softmax(scores)[label])
        divisor += weights[label]
    return total / divisor if divisor else 0.0


def ohem_cross_entropy(
    logits: Array, target: Array, threshold: float, min_kept: int, weights: list[float], ignore_index: int = 255
) -> float:
    pixels = []
    for scores, label in valid_pixels(logits, target, ignore_index):
        probability = softmax(scores)[label]
        pixels.append((probability, -weights[label] * math.log(probability)))
    if not pixels:
        return 0.0
    ordered = sorted(probability for probability, _ in pixels)
    limit = max(threshold, ordered[min(max(1, min_kept), len(ordered) - 1)])
    kept = [loss for probability, loss in pixels if probability < limit]
    return sum(kept) / len(kept) if kept else 0.0


def tversky(
    logits: Array, target: Array, alpha: float, beta: float, gamma: float = 1.0, ignore_index: int = 255
) -> float:
    """1 - tp / (tp + alpha fp + beta fn) with soft counts, mean over classes, 0 for a class not in the target.

    Dice is alpha = beta = 0.5, Jaccard is alpha = beta = 1.
    """
    number = logits.shape[1]
    hits, false_positives, false_negatives, pixels = (np.zeros(number) for _ in range(4))
    for scores, label in valid_pixels(logits, target, ignore_index):
        probabilities = softmax(scores)
        for k in range(number):
            if k == label:
                hits[k] += probabilities[k]
                false_negatives[k] += 1 - probabilities[k]
                pixels[k] += 1
            else:
                false_positives[k] += probabilities[k]
    losses = [
        1 - hits[k] / (hits[k] + alpha * false_positives[k] + beta * false_negatives[k]) if pixels[k] else 0.0
        for k in range(number)
    ]
    return float(np.mean(losses)) ** gamma


def focal(logits: Array, target: Array, gamma: float, ignore_index: int = 255) -> float:
    """One-against-all focal loss of each class, mean over valid pixels and classes."""
    terms = []
    for scores, label in valid_pixels(logits, target, ignore_index):
        for k, score in enumerate(scores):
            probability = 1 / (1 + math.exp(-score if k == label else score))
            terms.append(-((1 - probability) ** gamma) * math.log(probability))
    return sum(terms) / len(terms) if terms else 0.0


def lovasz(logits: Array, target: Array, ignore_index: int = 255) -> float:
    """The Lovász extension of the Jaccard loss by its definition: errors times the gains of a growing set."""
    pixels = [(softmax(scores), label) for scores, label in valid_pixels(logits, target, ignore_index)]
    losses = []
    for k in sorted({label for _, label in pixels}):
        truth = {i for i, (_, label) in enumerate(pixels) if label == k}
        errors = {i: abs((i in truth) - probabilities[k]) for i, (probabilities, _) in enumerate(pixels)}
        wrong: set[int] = set()
        loss, before = 0.0, 0.0
        for i in sorted(errors, key=lambda i: -errors[i]):
            wrong.add(i)
            jaccard_loss = len(wrong) / len(truth | wrong)
            loss += errors[i] * (jaccard_loss - before)
            before = jaccard_loss
        losses.append(loss)
    return sum(losses) / len(losses) if losses else 0.0
