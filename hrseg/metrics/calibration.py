"""Calibration of probabilities: expected calibration error, reliability curves, and temperature scaling.

Every score comes from whole numbers by class and level of confidence, which add up over batches and ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from hrseg.errors import LabelRangeError
from hrseg.metrics.confusion import count_values

LEVELS = 15 * 1024  # of confidence: a multiple of the usual 15 bins
_PER_OCTAVE = 4
TEMPERATURES = tuple(2 ** (step / _PER_OCTAVE) for step in range(-12, 13))  # 1/8 to 8

_UNIT = 2**24  # of sums of confidence; from 0.5 on, float32 probabilities are multiples of its inverse
_CHUNK = 1 << 13  # pixels; what is computed in between stays in the cache


class Reliability(NamedTuple):
    """Bins of confidence, the least confident first.

    Args:
        pixels: Number of pixels, (M,) int64.
        confidence: Mean confidence, (M,) float64; NaN in an empty bin.
        accuracy: Share of the pixels whose label is right, (M,) float64; NaN in an empty bin.
    """

    pixels: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def error(self) -> Tensor:
        """Expected calibration error: the mean of |accuracy - confidence| over pixels, scalar float64."""
        gaps = (self.accuracy - self.confidence).abs().nan_to_num()
        return (gaps * self.pixels).sum() / self.pixels.sum()


class CalibrationScores(Metric):
    """Accumulates how confident predictions are, and how often they are right, over batches and ranks.

    The confidence of a pixel is the probability of its label. It is counted in `LEVELS` levels of equal width.

    Args:
        num_classes: Number of classes, K.
        ignore_index: Value of the pixels in the target that do not count.
        bins: Number of bins, M, of which `LEVELS` is a multiple.

    Source:
        Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599: expected calibration error in 15 bins of
        equal width. Nguyen and O'Connor, arXiv 1508.05154: bins of equal mass.
    """

    full_state_update = False

    # of this rank, by predicted class and level of confidence, (K, LEVELS) int64
    counts: Tensor  # pixels
    hits: Tensor  # pixels whose label is right
    sums: Tensor  # confidence, in 1 / 2**24
    nll: Tensor  # negative log-likelihood, float64
    unknown: Tensor  # pixels whose target is neither a class nor ignored, int64

    def __init__(self, num_classes: int, ignore_index: int = 255, bins: int = 15) -> None:
        super().__init__()
        assert LEVELS % bins == 0
        self.num_classes, self.ignore_index, self.bins = num_classes, ignore_index, bins
        for name in ("counts", "hits", "sums"):
            zeros = torch.zeros(num_classes, LEVELS, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")
        self.add_state("nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("unknown", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Counts one batch, without a host sync.

        Args:
            logits: (B, K, H, W), whose softmax are the probabilities; for a temperature, divided by it.
            target: (B, H, W) train ids and the ignore index.
        """
        parts = [self._facts(values, truth) for values, truth in _chunks(logits, target)]
        place, is_right, confidence, nll = (torch.cat(part) for part in zip(*parts, strict=True))
        size = self.num_classes * LEVELS + 1  # the last place is of ignored pixels
        totals = [
            count_values(place, size),
            count_values(torch.where(is_right, place, size - 1), size),
            _sum_values(place, confidence, size),
        ]
        counts, hits, sums = (total[:-1].view(self.num_classes, LEVELS) for total in totals)
        # not in place: the states may be inference tensors
        self.counts, self.hits, self.sums = self.counts + counts, self.hits + hits, self.sums + sums
        self.nll = self.nll + nll.sum()
        is_known = (target >= 0) & (target < self.num_classes) | (target == self.ignore_index)
        self.unknown = self.unknown + (~is_known).sum()

    def _facts(self, values: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of pixels: class and level as one number, whether the label is right, confidence in 1 / 2**24, likelihood."""
        is_valid = (truth >= 0) & (truth < self.num_classes)
        highest, predicted = values.max(0)
        of_truth = values.gather(0, truth.clamp(0, self.num_classes - 1)[None])[0]
        total = (values - highest).exp_().sum(0)
        confidence = total.reciprocal().nan_to_num_()  # of logits that are no numbers
        level = (confidence * LEVELS).long().clamp_(max=LEVELS - 1)
        place = torch.where(is_valid, predicted * LEVELS + level, self.num_classes * LEVELS)
        nll = torch.where(is_valid, total.log_() + highest - of_truth, 0.0).double().sum()
        return place, predicted == truth, (confidence * _UNIT).round_().long(), nll[None]

    def compute(self) -> dict[str, Tensor]:
        """Computes the scores over all ranks, float64 on the CPU.

        Bins of equal mass end at levels, as pixels of one level are not told apart; one may then be empty.

        Returns:
            "ece" and "ece_equal_mass"; "nll", the mean negative log-likelihood; "accuracy" and "confidence", their
            means; "pixels". The curves (3, M) "curve" and "curve_equal_mass", the fields of a `Reliability`. Of the
            pixels predicted as each class, (K,): "class_ece", "class_ece_equal_mass", "class_accuracy",
            "class_confidence" and "class_pixels"; NaN for a class that is never predicted.

        Raises:
            LabelRangeError: A pixel of the target was neither a class nor the ignore index.
        """
        if unknown := int(self.unknown):
            raise LabelRangeError(
                f"{unknown} pixels of the target are neither 0-{self.num_classes - 1} nor {self.ignore_index}. "
                "Were label ids given where train ids are expected?"
            )
        states = torch.stack([self.counts, self.hits, self.sums]).cpu()
        pixels, hits, sums = states.sum((1, 2))
        width, mass = (reliability(states.sum(1), self.bins, is_mass) for is_mass in (False, True))
        scores = {
            "ece": width.error,
            "ece_equal_mass": mass.error,
            "nll": self.nll.cpu() / pixels,
            "accuracy": hits.double() / pixels,
            "confidence": sums.double() / _UNIT / pixels,
            "pixels": pixels,
            "curve": torch.stack([part.double() for part in width]),
            "curve_equal_mass": torch.stack([part.double() for part in mass]),
        }
        for name, is_mass in (("class_ece", False), ("class_ece_equal_mass", True)):
            scores[name] = torch.stack([reliability(levels, self.bins, is_mass).error for levels in states.unbind(1)])
        by_class = states.sum(2)
        scores["class_pixels"] = by_class[0]
        scores["class_accuracy"] = by_class[1].double() / by_class[0]
        scores["class_confidence"] = by_class[2].double() / _UNIT / by_class[0]
        return scores


def reliability(levels: Tensor, bins: int = 15, equal_mass: bool = False) -> Reliability:
    """Joins levels of confidence to bins.

    Args:
        levels: By level of confidence, the number of pixels, of those whose label is right, and the sum of confidence
            in 1 / 2**24, (3, LEVELS) int64.
        bins: Number of bins, M.
        equal_mass: Whether bins have the same number of pixels, up to those of one level, instead of the same width.
    """
    counts = levels[0]
    if equal_mass:
        middle = 2 * counts.cumsum(0) - counts  # twice the pixels below the middle of a level
        place = (middle * bins // (2 * counts.sum()).clamp(min=1)).clamp(max=bins - 1)
    else:
        place = torch.arange(len(counts)) * bins // len(counts)
    joined = torch.zeros(3, bins, dtype=torch.int64).index_add_(1, place, levels)
    pixels, right, confidence = joined
    return Reliability(pixels, confidence.double() / _UNIT / pixels, right.double() / pixels)


class TemperatureFit(Metric):
    """Finds the temperature with the least negative log-likelihood.

    The likelihood of all valid pixels is accumulated at 25 temperatures from 1/8 to 8; a polynomial through the five
    around the lowest gives the minimum, to about four digits. Memory does not grow with the images.

    Source:
        Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599, section 4.2.
    """

    full_state_update = False

    nll: Tensor  # of this rank, (25,) float64
    pixels: Tensor  # int64

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nll", torch.zeros(len(TEMPERATURES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pixels", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Adds one batch, without a host sync; only pixels of a class count. See `CalibrationScores.update`."""
        total = torch.zeros_like(self.nll)
        for values, truth in _chunks(logits, target):
            is_valid = (truth >= 0) & (truth < len(values))
            values = values - values.amax(0)
            of_truth = values.gather(0, truth.clamp(0, len(values) - 1)[None])[0]
            for first in range(_PER_OCTAVE):
                octave = range(len(TEMPERATURES) - 1 - first, -1, -_PER_OCTAVE)
                powers = (values / TEMPERATURES[octave[0]]).exp_()
                for index in octave:
                    losses = powers.sum(0).log_() - of_truth / TEMPERATURES[index]
                    total[index] += torch.where(is_valid, losses, 0.0).double().sum()
                    powers.square_()  # the exponentials at half the temperature, four times as fast
            self.pixels = self.pixels + is_valid.sum()
        self.nll = self.nll + total

    def compute(self) -> Tensor:
        """The temperature, scalar float64, of four digits; the nearest of 1/8 and 8 if the minimum lies beyond."""
        return torch.tensor(lowest_temperature((self.nll.cpu() / self.pixels.cpu()).numpy()), dtype=torch.float64)


def lowest_temperature(nll: np.ndarray) -> float:
    """The temperature between `TEMPERATURES` with the least negative log-likelihood, rounded to four digits.

    Args:
        nll: At each of `TEMPERATURES`, (25,).
    """
    steps = np.log2(TEMPERATURES)
    lowest, last = int(nll.argmin()), len(nll) - 1
    first = min(max(lowest - 2, 0), last - 4)
    polynomial = np.polynomial.Polynomial.fit(steps[first : first + 5], nll[first : first + 5], 4)
    between = np.linspace(steps[max(lowest - 1, 0)], steps[min(lowest + 1, last)], 20001)
    return float(f"{2 ** between[polynomial(between).argmin()]:.4g}")


def _chunks(logits: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of the pixels: logits (K, N) float32 and target (N,) int64."""
    for values, truth in zip(logits.flatten(2), target.flatten(1), strict=True):
        size = max(truth.numel(), 1) if truth.is_cuda else _CHUNK
        for part, of_part in zip(values.split(size, 1), truth.split(size), strict=True):
            yield part.float(), of_part.long()


def _sum_values(places: Tensor, values: Tensor, number: int) -> Tensor:
    """Sums of whole values by place, (number,) int64."""
    if not places.is_cuda:  # several times as fast, and exact: the sums of 2**29 pixels are below 2**53
        return torch.bincount(places, values, minlength=number).long()
    return torch.zeros(number, dtype=torch.int64, device=places.device).scatter_add_(0, places, values)
