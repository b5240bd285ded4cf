"""Class frequencies, and class weights computed from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassCounts:
    """Class frequencies of a split, in train id order.

    Args:
        pixels: (K,) int64, pixels of each class.
        images: (K,) int64, images that contain the class.
        area: (K,) int64, pixels of any class in these images.
    """

    pixels: np.ndarray
    images: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, histograms: np.ndarray) -> ClassCounts:
        """Sums histograms over images.

        Args:
            histograms: (N, K) int64, pixels of each class in each image.
        """
        occurs = histograms > 0
        return cls(histograms.sum(0), occurs.sum(0), (occurs * histograms.sum(1, keepdims=True)).sum(0))

    @property
    def shares(self) -> np.ndarray:
        """Share of each class in the pixels that are not ignored, (K,) float64."""
        shares: np.ndarray = self.pixels / max(self.pixels.sum(), 1)
        return shares

    def inverse_log_weights(self) -> np.ndarray:
        """1 / log(1.02 + share), (K,) float64 of mean 1 over the classes that occur; 1 for those that do not.

        Source:
            Paszke et al., "ENet" (2016), section 5.2.
        """
        return self._normalised(1 / np.log(1.02 + self.shares))

    def median_frequency_weights(self) -> np.ndarray:
        """Median frequency / frequency, (K,) float64 of mean 1 over the classes that occur; 1 for those that do not.

        A class's frequency is its share of the images in which it occurs; the median drops out of weights of mean 1.

        Source:
            Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels" (ICCV 2015), section 6.3.
        """
        return self._normalised(self.area / np.maximum(self.pixels, 1))

    def _normalised(self, weights: np.ndarray) -> np.ndarray:
        occurs = self.pixels > 0
        return np.where(occurs, weights / weights[occurs].mean(), 1.0) if occurs.any() else np.ones(len(weights))
