"""Small networks for the tests of exported files, and their descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.data.labels import LabelTable
from hrseg.export import export
from hrseg.inference import IMAGENET_STD, Predictor, Protocol
from hrseg.inference.exported import ExportDescription
from hrseg.inference.exported.description import OUTPUTS

LABELS = LabelTable("toy", ("sky", "road", "left", "right"), ((1, 2, 3), (9, 9, 9), (250, 0, 0), (0, 250, 0)))
MEAN = (0.3, 0.4, 0.5)
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
RUNTIMES = list(SUFFIXES)


# arguments of `network`, and of `describe`
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "any": ({}, {"outputs": OUTPUTS, "temperature": 1.7}),
    "resized": (
        {"channel_order": "bgr", "align_corners": True},
        {"channel_order": "bgr", "align_corners": True, "input_size": (40, 56)},
    ),
    "fixed": ({}, {"size": (36, 52)}),
}


class TwoBranches(nn.Module):
    """Maps images (B, 3, H, W) to logits (B, K, H / 2, W / 2): a coarse branch is upsampled and added to a fine one.

    Args:
        align_corners: Of all upsampling.
        channel_order: Of the images.
        num_classes: K.
    """

    def __init__(self, align_corners: bool = False, channel_order: str = "rgb", num_classes: int = 4) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.channel_order = channel_order
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.coarse = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.norm(self.stem(images)).relu()
        coarse = self.coarse(fine).relu()
        enlarged = F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=self.align_corners)
        logits: Tensor = self.head(fine + enlarged)
        return logits


def network(seed: int = 0, **arguments: Any) -> TwoBranches:
    """With every class among the labels of an `image`."""
    torch.manual_seed(seed)
    made = TwoBranches(**arguments)
    nn.init.normal_(made.head.weight)
    assert made.norm.running_mean is not None
    nn.init.uniform_(made.norm.running_mean)
    made.eval()
    with torch.no_grad():
        pixels = torch.from_numpy(image(64, 96, seed=9)).permute(2, 0, 1)[None] / 255
        made.head.bias -= made((pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / 0.22).mean((0, 2, 3))
    return made


def describe(runtime: str, **changes: Any) -> ExportDescription:
    """The description of a `TwoBranches`."""
    facts: dict[str, Any] = {
        "runtime": runtime,
        "precision": "fp32",
        "network": "TwoBranches",
        "labels": LABELS,
        "mean": MEAN,
        "std": IMAGENET_STD,
        "channel_order": "rgb",
        "align_corners": False,
        "protocol": Protocol(),
        "crop_size": (32, 48),
        "input_size": None,
    }
    return ExportDescription(**facts | changes)


def described(runtime: str, kind: str) -> ExportDescription:
    """The description of a kind of file."""
    return describe(runtime, **KINDS[kind][1])


def exported_to(folder: Path, made: nn.Module, description: ExportDescription) -> Path:
    """The exported file."""
    path = folder / f"model{SUFFIXES[description.runtime]}"
    export(made, description, path)
    return path


def predictor_of(made: nn.Module, description: ExportDescription, **changes: Any) -> Predictor:
    """PyTorch's predictor of what a file was exported from."""
    facts = {
        "labels": description.labels,
        "mean": description.mean,
        "std": description.std,
        "device": "cpu",
        "protocol": description.protocol,
        "input_size": description.input_size,
        "temperature": description.temperature,
    }
    return Predictor(made, **facts | changes)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: noise on gradients, so that labels have areas and edges."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    return (ramp + generator.integers(0, 56, (height, width, 3))).astype(np.uint8)
