from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrseg.utils import upsample as module
from hrseg.utils.upsample import upsample, upsampled_argmax


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_maps_of_the_size_are_returned_as_they_are(align_corners: bool, mode: str) -> None:
    maps = torch.randn(1, 2, 5, 7)
    assert upsample(maps, (5, 7), align_corners, mode) is maps
    assert torch.equal(torch.nn.functional.interpolate(maps, (5, 7), mode=mode), maps)


def scene(classes: int, height: int, width: int, batch: int = 2) -> Tensor:
    """Logits of a few areas, with noise: most pixels have neighbours of their class."""
    torch.manual_seed(0)
    shape = batch, classes, max(height // 30, 1), max(width // 30, 1)
    return 5 * F.interpolate(torch.randn(shape), (height, width), mode="bicubic") + torch.randn(
        batch, classes, height, width
    ).mul(0.05)


def assert_equal_but_for_ties(labels: Tensor, logits: Tensor, size: tuple[int, int], align_corners: bool) -> None:
    full = F.interpolate(logits.double(), size, mode="bilinear", align_corners=align_corners)
    assert labels.dtype == torch.uint8
    assert labels.shape == full[:, 0].shape
    behind = full.amax(1) - full.gather(1, labels.long()[:, None])[:, 0]
    assert behind.max() <= 1e-5 * logits.abs().max()
    assert (labels != full.argmax(1)).float().mean() <= 1e-4


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((36, 60), (144, 240)),
        ((36, 60), (141, 239)),
        ((37, 61), (144, 60)),
        ((40, 40), (41, 300)),
        ((24, 48), (24, 48)),
        ((36, 48), (20, 31)),  # downsampled
        ((1, 30), (1, 120)),
        ((30, 1), (120, 7)),
        ((1, 1), (5, 6)),
    ],
)
def test_labels_equal_those_of_upsampled_logits(
    shape: tuple[int, int], size: tuple[int, int], align_corners: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_MIXED", 1.0)
    monkeypatch.setattr(module, "_LEAST_GAIN", 0.0)
    monkeypatch.setattr(module, "_CHUNK", 1000)
    for classes in (2, 19):
        logits = scene(classes, *shape)
        for given in (logits, logits.contiguous(memory_format=torch.channels_last), torch.randn(2, classes, *shape)):
            assert_equal_but_for_ties(upsampled_argmax(given, size, align_corners), given, size, align_corners)


def test_only_mixed_pixels_are_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Mock(side_effect=F.interpolate)
    monkeypatch.setattr(F, "interpolate", full)
    logits = scene(19, 60, 96)
    best = logits.argmax(1)
    assert 0 < (best[:, :, 1:] != best[:, :, :-1]).float().mean() < 0.07
    full.reset_mock()
    upsampled_argmax(logits, (240, 384), align_corners=False)
    assert not full.called
    upsampled_argmax(torch.randn(1, 19, 60, 96), (240, 384), align_corners=False)
    upsampled_argmax(scene(255, 30, 30), (120, 120), align_corners=False)
    upsampled_argmax(logits.double(), (240, 384), align_corners=False)
    assert full.call_count == 4  # and one to make the scene


def test_the_first_of_equal_classes_is_taken() -> None:
    logits = torch.zeros(1, 4, 6, 7)
    logits[:, 1:3] = 1
    assert (upsampled_argmax(logits, (24, 28), align_corners=False) == 1).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_win_as_in_argmax(value: float) -> None:
    logits = torch.zeros(1, 3, 6, 7)
    logits[:, 0] = 1
    logits[:, 2] = value
    logits[:, 2, :, 4:] = 0
    expected = F.interpolate(logits, (24, 28), mode="bilinear").argmax(1)
    assert torch.equal(upsampled_argmax(logits, (24, 28), align_corners=False), expected.to(torch.uint8))
