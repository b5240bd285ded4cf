"""The RMI loss pixel by pixel, in float64, with the matrices of its paper (Zhao et al., NeurIPS 2019) written out.

The constants are those of NVIDIA's and openseg's code. Logits (B, K, H, W) and a target (B, H, W) of the same size, as
numpy arrays.
"""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def binary_cross_entropy(logits: Array, target: Array, ignore_index: int = 255) -> float:
    total, valid = 0.0, 0
    for image, y, x in np.ndindex(target.shape):
        if target[image, y, x] == ignore_index:
            continue
        valid += 1
        for k in range(logits.shape[1]):
            score = float(logits[image, k, y, x])
            total -= math.log(sigmoid(score if target[image, y, x] == k else -score))
    return total / (valid + 1)


def pooled(plane: Array, pooling: str, size: int) -> Array:
    """Squares side by side, the first beginning half a square outside; an average counts what is outside as zero."""
    padding = size // 2
    shape = [(side + 2 * padding - size) // size + 1 for side in plane.shape]
    result = np.zeros(shape)
    for row, column in np.ndindex(*shape):
        inside = [
            plane[y, x]
            for y in range(row * size - padding, row * size - padding + size)
            for x in range(column * size - padding, column * size - padding + size)
            if 0 <= y < plane.shape[0] and 0 <= x < plane.shape[1]
        ]
        result[row, column] = sum(inside) / size**2 if pooling == "average" else max(inside)
    return result


def regions(plane: Array, radius: int) -> list[list[float]]:
    """The values of each square of side `radius` that lies inside."""
    return [
        [float(plane[top + y, left + x]) for y in range(radius) for x in range(radius)]
        for top in range(plane.shape[0] - radius + 1)
        for left in range(plane.shape[1] - radius + 1)
    ]


def scatter(first: list[list[float]], second: list[list[float]]) -> Array:
    """The sum over points of the products of their distances from the means."""
    n, d = len(first), len(first[0])
    means = [[sum(point[i] for point in points) / n for i in range(d)] for points in (first, second)]
    result = np.zeros((d, d))
    for a, b in zip(first, second, strict=True):
        for i in range(d):
            for j in range(d):
                result[i, j] += (a[i] - means[0][i]) * (b[j] - means[1][j])
    return result


def cholesky(matrix: Array) -> Array:
    factor = np.zeros_like(matrix)
    for i in range(len(matrix)):
        for j in range(i + 1):
            rest = matrix[i, j] - sum(factor[i, m] * factor[j, m] for m in range(j))
            factor[i, j] = math.sqrt(rest) if i == j else rest / factor[j, j]
    return factor


def planes(logits: Array, target: Array, k: int, ignore_index: int = 255) -> tuple[Array, Array]:
    """Probability and label (H, W) of one class of one image."""
    probability, label = np.zeros(target.shape), np.zeros(target.shape)
    for y, x in np.ndindex(target.shape):
        counts = target[y, x] != ignore_index
        probability[y, x] = (sigmoid(float(logits[k, y, x])) if counts else 0.0) + 1e-6
        label[y, x] = 1.0 if counts and target[y, x] == k else 0.0
    return probability, label


def information(probability: Array, label: Array, radius: int, pooling: str, pool_size: int, alpha: float) -> float:
    """Half the log-determinant of the labels' covariance given the probabilities, per dimension."""
    p = regions(pooled(probability, pooling, pool_size), radius)
    y = regions(pooled(label, pooling, pool_size), radius)
    ridge = alpha * np.eye(radius**2)
    y_p = scatter(y, p)
    conditional = scatter(y, y) - y_p @ np.linalg.inv(scatter(p, p) + ridge) @ y_p.T
    factor = cholesky(conditional + ridge)
    log_determinant = 2 * sum(math.log(factor[i, i] + 1e-8) for i in range(len(factor)))
    return 0.5 * log_determinant / radius**2


def region_mutual_information(
    logits: Array, target: Array, radius: int, pooling: str, pool_size: int, alpha: float, ignore_index: int = 255
) -> float:
    """Summed over classes; averaged over all images."""
    images = []
    for scores, labels in zip(logits, target, strict=True):
        maps = [planes(scores, labels, k, ignore_index) for k in range(len(scores))]
        images.append(sum(information(*both, radius, pooling, pool_size, alpha) for both in maps))
    return sum(images) / len(images)


def rmi_loss(
    logits: Array, target: Array, radius: int, pooling: str, pool_size: int, bce_weight: float, alpha: float
) -> float:
    bce = binary_cross_entropy(logits, target)
    return bce_weight * bce + (1 - bce_weight) * region_mutual_information(
        logits, target, radius, pooling, pool_size, alpha
    )
