from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from hrseg.data.tools.frequencies import ClassCounts

HISTOGRAMS = np.random.default_rng(0).integers(0, 1000, (20, 5)) * np.random.default_rng(1).integers(0, 2, (20, 5))
HISTOGRAMS[:, 3] = 0


def test_counts_equal_a_loop_over_images_and_classes() -> None:
    counts = ClassCounts.of(HISTOGRAMS)
    for k in range(5):
        occurs = [row for row in HISTOGRAMS.tolist() if row[k] > 0]
        assert counts.pixels[k] == sum(row[k] for row in occurs)
        assert counts.images[k] == len(occurs)
        assert counts.area[k] == sum(sum(row) for row in occurs)
    assert counts.shares.sum() == pytest.approx(1)


def test_weights_follow_the_papers_with_mean_1_over_the_classes_that_occur() -> None:
    counts = ClassCounts.of(HISTOGRAMS)
    present = [0, 1, 2, 4]
    total = counts.pixels.sum()
    frequencies = [counts.pixels[k] / counts.area[k] for k in present]
    rules = {
        "log": [1 / math.log(1.02 + counts.pixels[k] / total) for k in present],
        "median": [statistics.median(frequencies) / frequency for frequency in frequencies],
    }
    found = {"log": counts.inverse_log_weights(), "median": counts.median_frequency_weights()}
    for rule, weights in rules.items():
        np.testing.assert_allclose(found[rule][present], np.array(weights) / statistics.mean(weights))
        assert found[rule][3] == 1


def test_without_any_label_all_weights_are_1() -> None:
    counts = ClassCounts.of(np.zeros((2, 3), np.int64))
    assert counts.inverse_log_weights().tolist() == counts.median_frequency_weights().tolist() == [1, 1, 1]
