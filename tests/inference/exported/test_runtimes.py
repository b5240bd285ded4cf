"""What each runtime computes, beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hrseg.errors import ConfigError, DataFileError
from hrseg.inference import Predictor, Protocol
from hrseg.inference.exported import open_exported
from tests.exports import KINDS, MEAN, RUNTIMES, described, image, network, predictor_of

Exports = Callable[..., Path]
SIZES = [(33, 35), (67, 93), (64, 96), (120, 41)]
TINY_SIZES = [(1, 1), (2, 3), (31, 5)]  # torch.export takes none of one pixel on any map
PROTOCOLS = {
    "slide": Protocol(window=(36, 48)),
    "cityscapes": Protocol(scales=(0.5, 1.0, 1.75), flip=True),
    "exp": Protocol(scales=(1.0, 1.5), base_size=80, flip=True, fusion="exp", window=(48, 48), stride=(32, 32)),
}


def expected_probabilities(pixels: np.ndarray, temperature: float) -> np.ndarray:
    """(K, H, W) by numpy, from logits that PyTorch upsamples."""
    normalized = (pixels.transpose(2, 0, 1)[None] / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(
        (0.229, 0.224, 0.225), (3, 1, 1)
    )
    with torch.no_grad():
        logits = network()(torch.from_numpy(normalized).float())
        scores = F.interpolate(logits, pixels.shape[:2], mode="bilinear", align_corners=False)[0].numpy() / temperature
    exponentials = np.exp(scores - scores.max(0))
    found: np.ndarray = exponentials / exponentials.sum(0)
    return found


def assert_equal_but_near_ties(labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Compares labels with the best of the probabilities; rounding may decide where two are equal."""
    differs = labels != probabilities.argmax(0)
    best = np.sort(probabilities, axis=0)[-2:]
    assert differs.mean() <= 1e-3
    assert np.all((best[1] - best[0])[differs] < 1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_labels_and_probabilities_of_images_of_any_size(runtime: str, exports: Exports) -> None:
    exported = open_exported(exports(runtime), trust=True)
    temperature = exported.description.temperature
    for size in SIZES + (TINY_SIZES if runtime != "torch" else []):
        images = np.stack([image(*size, seed=seed) for seed in range(2)])
        found = exported.predict(images)
        assert list(found) == ["labels", "confidence", "probabilities"]
        assert found["labels"].dtype == np.uint8
        assert found["labels"].shape == found["confidence"].shape == (2, *size)
        for index, pixels in enumerate(images):
            expected = expected_probabilities(pixels, temperature)
            np.testing.assert_allclose(found["probabilities"][index], expected, rtol=0, atol=2e-5)
            np.testing.assert_allclose(found["confidence"][index], expected.max(0), rtol=0, atol=2e-5)
            assert_equal_but_near_ties(found["labels"][index], expected)
    assert set(np.unique(exported.predict(image(64, 96)[None])["labels"])) == {0, 1, 2, 3}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_run_the_network_of_the_file_alone(name: str, runtime: str, exports: Exports) -> None:
    protocol, pixels = PROTOCOLS[name], image(67, 93)
    ours = Predictor.from_file(exports(runtime), protocol=protocol, trust=True)
    theirs = predictor_of(network(), described(runtime, "any"), protocol=protocol)
    found, expected = ours(pixels, probabilities=True), theirs(pixels, probabilities=True)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=0, atol=2e-5)
    assert_equal_but_near_ties(ours(pixels), expected.probabilities)
    plain = theirs.__class__.from_file(exports(runtime), trust=True)(pixels)
    assert (plain != expected.labels).any()  # the protocol does matter


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_image_is_resized_to_input_size_and_its_channels_swapped_as_by_opencv(
    runtime: str, exports: Exports
) -> None:
    ours = Predictor.from_file(exports(runtime, "resized"), trust=True)
    theirs = predictor_of(network(**KINDS["resized"][0]), described(runtime, "resized"))
    assert ours.network.channel_order == "bgr"
    for size in ((67, 93), (40, 56), (35, 120)):
        pixels = image(*size)
        found, expected = ours(pixels, probabilities=True), theirs(pixels, probabilities=True)
        assert_equal_but_near_ties(ours(pixels), expected.probabilities)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=0, atol=2e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_of_one_size_takes_batches_of_it_and_refuses_others(runtime: str, exports: Exports) -> None:
    exported = open_exported(exports(runtime, "fixed"), trust=True)
    images = np.stack([image(36, 52, seed=seed) for seed in range(3)])
    labels = exported.predict(images)["labels"]
    theirs = predictor_of(network(), described(runtime, "fixed"))
    for pixels, found in zip(images, labels, strict=True):
        assert_equal_but_near_ties(found, theirs(pixels, probabilities=True).probabilities)
    with pytest.raises(
        ConfigError, match=r"an image of 36x53 .* this file takes 36x52 only \(export it without --size"
    ):
        exported.predict(image(36, 53)[None])
    with pytest.raises(ConfigError, match="this file takes 36x52 only"):
        Predictor.from_file(exported.path, protocol=PROTOCOLS["slide"], trust=True)(images[0])


def test_axes_of_onnx_files_have_names(exports: Exports) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exports("onnx"))
    axes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    pixels = ["batch", "height", "width"]
    assert axes["images"] == [*pixels, 3]
    assert axes["labels"] == axes["confidence"] == pixels
    assert axes["probabilities"] == ["batch", 4, "height", "width"]


def test_a_program_of_torch_refuses_sides_that_it_does_not_take(exports: Exports) -> None:
    with pytest.raises(ConfigError, match=r"an image of 40x4 \(height x width\); .* sides of 5 pixels or more"):
        Predictor.from_file(exports("torch"), trust=True)(image(40, 4))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_predictor_takes_images_of_every_kind(runtime: str, exports: Exports, tmp_path: Path) -> None:
    predictor = Predictor.from_file(exports(runtime), trust=True)
    pixels = image(67, 93)
    expected = predictor(pixels)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    alpha = np.dstack([pixels, np.full((67, 93), 7, np.uint8)])
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), alpha, pixels[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(predictor(same), expected)
    grey = pixels[..., 0]
    np.testing.assert_array_equal(predictor(grey), predictor(np.dstack([grey] * 3)))
    for wrong in (np.zeros((40, 40, 2), np.uint8), np.zeros((40, 40, 3), np.float32)):
        with pytest.raises(DataFileError):
            predictor(wrong)


def test_an_image_that_does_not_fit_into_memory_is_refused(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.from_file(exports("onnx"))
    monkeypatch.setattr("hrseg.inference.predictor.available_memory", lambda device: 1e-6)
    with pytest.raises(DataFileError, match=r"the image has 67x93 pixels .* cut it into tiles"):
        predictor(image(67, 93))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_devices(runtime: str, exports: Exports) -> None:
    predictor = Predictor.from_file(exports(runtime), "cpu", trust=True)
    assert predictor.runs_on.endswith(" on cpu, fp32")
    for device in ("cuda:77", "nonsense", ""):
        if device:
            with pytest.raises(ConfigError, match=f"device {device}"):
                open_exported(exports(runtime), device, trust=True)
