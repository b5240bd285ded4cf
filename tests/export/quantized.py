"""What the tests of quantisation share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hrseg.data.labels import LabelTable
from hrseg.export import Quantization, Scored
from hrseg.inference import Predictor, normalize
from hrseg.inference.exported import ExportDescription
from hrseg.inference.protocol import Protocol

SIZE = (64, 96)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.3, 0.2)


def described(runtime: Any, classes: int = 2) -> ExportDescription:
    """A description of an int8 file for images of any size."""
    names = tuple(f"class {number}" for number in range(classes))
    labels = LabelTable("toy", names, tuple((40 * number, 90, 200) for number in range(classes)))
    return ExportDescription(runtime, "int8", "tiny", labels, MEAN, STD, "rgb", False, Protocol(), None, None)


def images(number: int) -> list[np.ndarray]:
    """Smooth pictures (H, W, 3) uint8."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(number, 3, 9, 13, generator=generator)
    full = nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1)
    return [(255 * image).round().byte().permute(1, 2, 0).numpy() for image in full]


def _normalized(pictures: list[np.ndarray]) -> Tensor:
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return normalize(batch, mean, std, "rgb")


def labelled(network: nn.Module, pictures: list[np.ndarray], description: ExportDescription) -> list[Scored]:
    """Pictures with the labels that the network itself gives them."""
    predictor = Predictor(network, description.labels, description.mean, description.std, "cpu")
    return [Scored(picture, predictor(picture)) for picture in pictures]


def quantization(network: nn.Module, description: ExportDescription, max_drop: float = 100.0) -> Quantization:
    """Eight pictures to calibrate with, four others for the gate."""
    pictures = images(12)
    return Quantization(pictures[:8], labelled(network, pictures[8:], description), max_drop)


@torch.no_grad()
def settled(network: nn.Module) -> nn.Module:
    """Gives batch norms the statistics of random images, so that activations have ranges like a trained network's."""
    network.train()
    for _ in range(10):
        network(torch.randn(4, 3, *SIZE))
    return network.eval()


class Layers(nn.Module):
    """A few convolutions; the one called `loud` has a channel 10,000 times as large as the others.

    The head undoes that, so float is not hurt by it, whereas eight bits for all channels leave nothing of the others.
    """

    head_names = ("head",)
    align_corners = False
    channel_order = "rgb"

    def __init__(self, is_loud: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.calm = nn.Conv2d(8, 8, 3, padding=1)
        self.loud = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 2, 1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
        with torch.no_grad():  # both classes get half of the pixels
            self.head.bias.zero_()
            logits = self(_normalized(images(12)))
            self.head.bias[1] = (logits[:, 0] - logits[:, 1]).median()
        if is_loud:
            self.loud.weight.data[0] *= 1e4
            self.last.weight.data[:, 0] /= 1e4

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, 3, H, W) to (B, 2, H / 2, W / 2)."""
        for layer in (self.first, self.calm, self.loud, self.last):
            x = layer(x).relu()
        return self.head(x - x.mean(1, keepdim=True))
