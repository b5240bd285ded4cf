"""What can be captured, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from hrseg.errors import ConfigError
from hrseg.export.graph import SegmentationGraph, capture
from hrseg.inference.exported import open_exported
from hrseg.models import HRNetV2
from tests.exports import describe, exported_to, image, network, predictor_of
from tests.networks import TINY


class ByBrightness(nn.Module):
    """Takes another branch for bright images, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images) if images.mean() > 0 else self.head(-images)
        return logits


class UnderLogits(nn.Module):
    """Gives logits as networks of transformers do, at a quarter of the size, and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(images), "loss": images.mean()}


def equal_labels(path: Path, made: nn.Module, *sizes: tuple[int, int]) -> None:
    exported = open_exported(path, trust=True)
    predictor = predictor_of(made, exported.description)
    for size in sizes:
        pixels = image(*size)
        assert (exported.predict(pixels[None])["labels"][0] != predictor(pixels)).mean() <= 1e-3


@pytest.mark.parametrize("size", [None, (64, 64)])
def test_control_flow_that_depends_on_data_is_refused_in_one_line(size: tuple[int, int] | None) -> None:
    remedy = "try --size HEIGHTxWIDTH" if size is None else "its code must not depend on values"
    with pytest.raises(ConfigError, match=f"ByBrightness cannot be exported for .*data-dep.*; {remedy}") as caught:
        capture(ByBrightness().eval(), describe("onnx", network="ByBrightness", size=size), with_steps=False)
    assert "\n" not in str(caught.value)


def test_a_module_without_logits_is_refused_in_one_line() -> None:
    class Tuples(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (images,)

    with pytest.raises(ConfigError, match=r"TwoBranches cannot be exported .*expected logits"):
        capture(Tuples(), describe("onnx"), with_steps=False)


def test_a_module_of_another_library(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = UnderLogits().eval()
    equal_labels(exported_to(tmp_path, made, describe("torch")), made, (67, 93), (128, 64))


def test_networks_that_take_multiples_of_32_say_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = smp.Linknet("resnet18", encoder_weights=None, classes=4).eval()
    path = exported_to(tmp_path, made, describe("torch", network="Linknet"))
    exported = open_exported(path, trust=True)
    assert exported.description.multiple == 32
    equal_labels(path, made, (64, 96))
    with pytest.raises(ConfigError, match=r"an image of 64x93 .*sides of 64 pixels or more, multiples of 32: pad or"):
        exported.predict(image(64, 93)[None])


def test_a_unet_takes_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = smp.Unet("resnet18", encoder_weights=None, decoder_channels=(16, 8, 8, 8, 4), classes=4).eval()
    equal_labels(exported_to(tmp_path, made, describe("torch", network="Unet")), made, (67, 93), (64, 128))


def test_hrnet_of_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = HRNetV2(TINY, num_classes=4, init="kaiming", align_corners=True).eval()
    path = exported_to(tmp_path, made, describe("onnx", align_corners=True))
    equal_labels(path, made, (33, 35), (67, 93), (64, 128), (1, 1), (17, 200))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_hrnet_on_other_runtimes(runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = HRNetV2(TINY, num_classes=4, init="kaiming").eval()
    equal_labels(exported_to(tmp_path, made, describe(runtime)), made, (33, 35), (67, 93), (64, 128))


def test_the_network_stays_as_it_is(tmp_path: Path) -> None:
    made = network()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    capture(made, describe("torch", precision="bf16"), with_steps=False, memory_format=torch.channels_last)
    for name, value in made.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
        assert value.is_contiguous()


def test_channels_are_swapped_before_they_are_normalised() -> None:
    description = describe("onnx", channel_order="bgr", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    graph = SegmentationGraph(network(), description, with_steps=True)
    pixels = image(5, 7)
    with torch.no_grad():
        found = graph(torch.from_numpy(pixels)[None])["normalized"][0].numpy()
    expected = (pixels[..., ::-1] / 255 - description.mean) / description.std
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=0, atol=1e-5)
