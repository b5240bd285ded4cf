"""Every family of segmentation networks on every runtime, for any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from segmentation_models_pytorch import Unet
from torch import nn

from hrseg.data.labels import LabelTable
from hrseg.export import FILE_SUFFIXES, export
from hrseg.inference import IMAGENET_MEAN, IMAGENET_STD, Protocol
from hrseg.inference.exported import ExportDescription, open_exported
from hrseg.models import HRFormerVariant, outputs_of
from hrseg.models.networks.hmsa import HRNetV2OCRMultiScale
from hrseg.models.networks.hrformer import HRFormerOCR
from hrseg.models.networks.hrnetv2 import HRNetV2
from hrseg.models.networks.ocr import HRNetV2OCR
from hrseg.models.networks.psa import PSA_BLOCKS
from tests.networks import TINY, assert_close

CLASSES = 3
TINY_TRANSFORMER = HRFormerVariant(8, heads=1, modules=(1, 1, 1), blocks=1)
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "hrnetv2": lambda: HRNetV2(TINY, CLASSES),
    "ocr": lambda: HRNetV2OCR(TINY, CLASSES),
    "hmsa": lambda: HRNetV2OCRMultiScale(TINY, CLASSES),
    "psa_s": lambda: HRNetV2(replace(TINY, block=PSA_BLOCKS["psa_s"]), CLASSES),
    "psa_p": lambda: HRNetV2(replace(TINY, block=PSA_BLOCKS["psa_p"]), CLASSES),
    "hrformer": lambda: HRFormerOCR(TINY_TRANSFORMER, CLASSES),
    "smp": lambda: Unet("resnet18", encoder_weights=None, classes=CLASSES),
}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_exported(tmp_path: Path, family: str, runtime: str) -> None:
    torch.manual_seed(0)
    network = FAMILIES[family]().eval()
    description = ExportDescription(
        runtime=runtime,  # type: ignore[arg-type]
        precision="fp32",
        network=family,
        labels=LabelTable("toy", ("a", "b", "c"), ((1, 1, 1), (2, 2, 2), (3, 3, 3))),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channel_order="rgb",
        align_corners=False,
        protocol=Protocol(),
        crop_size=None,
        input_size=None,
    )
    path = tmp_path / f"model{FILE_SUFFIXES[runtime]}"
    export(network, description, path)
    exported = open_exported(path, trust=True)
    multiple = exported.description.multiple
    for batch, height, width in ((1, 96, 128), (2, 160, 96), (1, 71, 97)):
        images = torch.randn(batch, 3, -(-height // multiple) * multiple, -(-width // multiple) * multiple)
        with torch.no_grad():
            expected = outputs_of(network, images)["out"]
        assert_close(exported.outputs(images)["out"], expected, 1e-3)
