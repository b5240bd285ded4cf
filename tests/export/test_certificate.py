"""Certificates beside a slow reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hrseg.errors import ConfigError
from hrseg.export import Certificate, Scored, certify
from hrseg.export.certificate import fitted
from hrseg.inference.exported import open_exported
from tests.exports import KINDS, RUNTIMES, describe, described, image, network, predictor_of
from tests.references.metrics import iou

Exports = Callable[..., Path]


def scored(number: int = 3) -> list[Scored]:
    generator = np.random.default_rng(0)
    samples = []
    for index in range(number):
        target = generator.integers(0, 4, (67, 93), dtype=np.uint8)
        target[generator.random((67, 93)) < 0.2] = 255
        samples.append(Scored(image(67, 93, seed=index), target))
    return samples


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_of_equal_weights_is_certified(runtime: str, exports: Exports) -> None:
    path = exports(runtime)
    certificate = certify(network(), open_exported(path, trust=True), scored(), [path])
    assert certificate.violation(0) is None
    assert (certificate.images, certificate.pixels) == (3, 3 * 67 * 93)
    assert certificate.differing <= 2
    assert certificate.largest_difference < 1e-4
    assert certificate.miou == pytest.approx(certificate.miou_torch, abs=1e-4)
    assert certificate.bytes == path.stat().st_size
    assert certificate.seconds > 0 < certificate.seconds_torch
    assert certificate.to_dict()["runs_on"] == certificate.runs_on


def test_resized_images_are_certified(exports: Exports) -> None:
    path = exports("onnx", "resized")
    certificate = certify(network(**KINDS["resized"][0]), open_exported(path), scored(), [path])
    assert certificate.violation(0) is None
    assert certificate.largest_difference < 1e-4


def test_counts_of_a_file_of_other_weights_are_those_of_a_slow_reference(exports: Exports) -> None:
    path = exports("onnx")
    exported, other = open_exported(path), network(seed=1)
    samples = scored(2)
    certificate = certify(other, exported, samples, [path])
    predictor = predictor_of(other, described("onnx", "any"), temperature=1.0)
    differing = beyond = 0
    maps: tuple[list[np.ndarray], ...] = ([], [], [])
    for pixels, target in samples:
        assert target is not None
        prediction = predictor(pixels, probabilities=True)
        best = np.sort(np.log(prediction.probabilities.astype(np.float64)), axis=0)[-2:]  # differences of logits
        found = exported.predict(pixels[None])["labels"][0]
        for row in range(67):
            for column in range(93):
                if found[row, column] != prediction.labels[row, column]:
                    differing += 1
                    beyond += bool(best[1, row, column] - best[0, row, column] > 1e-3)
        for listed, labels in zip(maps, (found, prediction.labels, target), strict=True):
            listed.append(labels)
    assert (certificate.differing, certificate.beyond_ties) == (differing, beyond)
    *predicted, truth = (np.stack(listed) for listed in maps)
    for miou, labels in zip((certificate.miou, certificate.miou_torch), predicted, strict=True):
        assert miou == pytest.approx(np.mean([iou(labels, truth, {index}) for index in range(4)]))
    message = certificate.violation(100)
    assert message is not None
    assert message.startswith(f"{differing} of {2 * 67 * 93} pixels differ from PyTorch, {beyond} of them where")


def test_bounds() -> None:
    exact = Certificate("x", "fp32", 1, 100_000, 10, 0, 0.0, None, None, 1, 1, 1)
    assert exact.violation(0) is None
    assert "11 of 100000 pixels differ" in str(replace(exact, differing=11).violation(99))
    assert "1 of them where" in str(replace(exact, beyond_ties=1).violation(99))
    half = replace(exact, precision="bf16", differing=90_000, beyond_ties=9, miou=0.6, miou_torch=0.605)
    assert half.violation(0.51) is None
    assert half.violation(0.4) == "mIoU drops by 0.50 points; expected at most 0.4 (--max_drop)"
    assert replace(half, miou=0.7).violation(0) is None
    assert replace(half, miou=float("nan")).violation(0.5) is not None


def test_images_without_labels_have_no_miou_and_no_image_is_an_error(exports: Exports) -> None:
    exported = open_exported(exports("onnx"))
    unlabelled = [scored(1)[0], Scored(image(40, 40), None)]
    certificate = certify(network(), exported, unlabelled, [])
    assert certificate.miou is certificate.miou_torch is None
    with pytest.raises(ConfigError, match="no image to certify the file with; give --images"):
        certify(network(), exported, [], [])


def test_images_are_fitted_to_what_the_file_takes() -> None:
    sample = scored(1)[0]
    assert fitted(sample, describe("onnx")).image.shape == (67, 93, 3)
    cut = fitted(sample, describe("onnx", multiple=32))
    np.testing.assert_array_equal(cut.image, sample.image[:64, :64])
    assert cut.target is not None
    assert cut.target.shape == (64, 64)
    resized = fitted(sample, describe("onnx", size=(36, 52)))
    assert resized.image.shape == (36, 52, 3)
    assert resized.target is not None
    assert set(np.unique(resized.target)) <= {0, 1, 2, 3, 255}


def test_logits_are_those_that_differ(exports: Exports) -> None:
    other = network()
    with torch.no_grad():
        other.head.bias[2] += 0.5
    certificate = certify(other, open_exported(exports("onnx")), scored(1), [])
    assert certificate.largest_difference == pytest.approx(0.5, abs=1e-4)
