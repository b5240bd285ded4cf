"""The network within an exported file, without pre- and postprocessing, against the network itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hrseg.data.labels import LabelTable
from hrseg.export import FILE_SUFFIXES, export
from hrseg.inference import IMAGENET_MEAN, IMAGENET_STD, Protocol
from hrseg.inference.exported import ExportDescription, open_exported
from hrseg.models.networks.ocr import HRNetV2OCR
from tests.networks import TINY, assert_close


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch"])
def test_the_logits_of_a_network_with_other_outputs_are_found(tmp_path: Path, runtime: str) -> None:
    torch.manual_seed(0)
    network = HRNetV2OCR(TINY, num_classes=3).eval()
    description = ExportDescription(
        runtime=runtime,  # type: ignore[arg-type]
        precision="fp32",
        network="tiny",
        labels=LabelTable("toy", ("a", "b", "c"), ((1, 1, 1), (2, 2, 2), (3, 3, 3))),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channel_order="rgb",
        align_corners=network.align_corners,
        protocol=Protocol(),
        crop_size=None,
        input_size=None,
    )
    path = tmp_path / f"model{FILE_SUFFIXES[runtime]}"
    export(network, description, path)
    exported = open_exported(path, trust=True)
    for size in ((65, 77), (128, 96)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            outputs = network.outputs(images)
        assert outputs["aux"].shape == outputs["out"].shape
        assert_close(exported.outputs(images)["out"], outputs["out"], 1e-4)
