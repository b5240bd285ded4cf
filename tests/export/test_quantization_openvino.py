"""Quantised OpenVINO files."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrseg.export import certify, export
from hrseg.inference.exported import open_exported
from hrseg.inference.exported.openvino_runtime import openvino_core
from hrseg.models import HRNetV2
from tests.export.quantized import Layers, described, images, labelled, quantization, settled
from tests.networks import TINY


def _model(path: Path) -> Any:
    return openvino_core().read_model(path)


def _convolutions(model: Any) -> tuple[list[Any], list[Any]]:
    """Those that are quantised, and those that are not."""
    all_ = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    quantized = [op for op in all_ if op.input_value(0).get_node().get_type_name() == "FakeQuantize"]
    return quantized, [op for op in all_ if op not in quantized]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HRNetV2]:
    network = settled(HRNetV2(TINY, 2))
    assert isinstance(network, HRNetV2)
    description = described("openvino")
    path = tmp_path_factory.mktemp("tiny") / "tiny.xml"
    export(network, description, path, quantization=quantization(network, description))
    return path, network


def test_all_but_head_and_sums_are_quantised_per_channel(tiny: tuple[Path, HRNetV2]) -> None:
    path, network = tiny
    model = _model(path)
    quantized, floats = _convolutions(model)
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in network.modules())
    heads = [module for module in network.last_layer.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(floats) == len(heads)
    assert len(quantized) == convolutions - len(heads)
    for op in quantized:
        scaled = op.input_value(1).get_node()  # integers times a scale for each channel
        assert scaled.get_type_name() == "Multiply"
        assert scaled.input_value(1).get_shape()[0] == op.input_value(1).get_shape()[0]
        converted = scaled.input_value(0).get_node()
        assert converted.input_value(0).get_element_type().get_type_name() == "i8"
    sums = [op for op in model.get_ordered_ops() if op.get_friendly_name().startswith("add")]
    upsampled = [
        op for op in sums if "Interpolate" in [value.get_node().get_type_name() for value in op.input_values()]
    ]
    assert upsampled  # of fusions
    for op in upsampled:
        assert all(value.get_node().get_type_name() != "FakeQuantize" for value in op.input_values())


def test_labels_agree_with_the_network(tiny: tuple[Path, HRNetV2]) -> None:
    path, network = tiny
    exported = open_exported(path)
    assert exported.description.precision == "int8"
    certificate = certify(network, exported, labelled(network, images(4), exported.description), [path])
    assert certificate.miou_torch == 1.0
    assert certificate.differing / certificate.pixels < 0.05


def test_sensitive_layers_go_back_to_float(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network, description = Layers(is_loud=True).eval(), described("openvino")
    samples = labelled(network, images(12)[8:], description)
    drops, are_quantized = [], []
    for max_drop in (100.0, 5.0):
        path = tmp_path / "m.xml"
        export(network, description, path, quantization=quantization(network, description, max_drop))
        certificate = certify(network, open_exported(path), samples, [])
        assert certificate.miou is not None
        drops.append(100 * (1 - certificate.miou))
        convolutions = [op for op in _model(path).get_ordered_ops() if op.get_type_name() == "Convolution"]
        quantized, _ = _convolutions(_model(path))
        are_quantized.append(
            [op.get_friendly_name() in {other.get_friendly_name() for other in quantized} for op in convolutions]
        )
    assert drops[1] <= 5.0 < drops[0]
    # first, calm, loud, last, head: those that write and read the loud channel
    assert are_quantized == [[True, True, True, True, False], [True, True, False, False, False]]
    printed = capfd.readouterr()
    assert not printed.out  # NNCF's own lines and bars
    assert "float: mIoU 100.00 on 4 images" in printed.err


def test_images_without_labels_calibrate(tmp_path: Path) -> None:
    from hrseg.export import Quantization

    network, description = Layers(is_loud=False).eval(), described("openvino").replaced(size=(32, 48))
    export(network, description, tmp_path / "m.xml", quantization=Quantization(images(4)))
    labels = open_exported(tmp_path / "m.xml").predict(np.stack(images(1))[:, :32, :48])["labels"]
    assert labels.shape == (1, 32, 48)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no SIGUSR1 here")
def test_signals_are_handled_after_models_were_freed(tiny: tuple[Path, HRNetV2]) -> None:
    code = (
        "import gc, os, signal, sys\n"
        "from hrseg.inference.exported import open_exported\n"
        "import numpy as np\n"
        "image = np.zeros((1, 64, 64, 3), np.uint8)\n"
        "first = open_exported(sys.argv[1]); first.predict(image)\n"
        "second = open_exported(sys.argv[1]); second.predict(image)\n"
        "del first; gc.collect()\n"
        "del second; gc.collect()\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled', flush=True))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, tiny[0]], capture_output=True, text=True)
    assert result.stdout == "handled\n", result
