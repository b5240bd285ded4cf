"""Quantised ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from hrseg.export import certify, export
from hrseg.inference import normalize
from hrseg.inference.exported import open_exported
from hrseg.models import HRNetV2
from tests.export.quantized import Layers, described, images, labelled, quantization, settled
from tests.networks import TINY


def _quantized_convolutions(path: Path) -> tuple[list[str], list[str], onnx.ModelProto]:
    """Names of weights of convolutions that are quantised, and of those that are not."""
    model = onnx.load(path)
    makers = {name: node for node in model.graph.node for name in node.output}
    quantized, floats = [], []
    for node in model.graph.node:
        if node.op_type == "Conv":
            maker = makers.get(node.input[1])
            is_quantized = maker is not None and maker.op_type == "DequantizeLinear"
            assert is_quantized == (node.input[0] in makers and makers[node.input[0]].op_type == "DequantizeLinear")
            (quantized if is_quantized else floats).append(maker.input[0] if is_quantized else node.input[1])
    return quantized, floats, model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HRNetV2]:
    network = settled(HRNetV2(TINY, 2))
    assert isinstance(network, HRNetV2)
    description = described("onnx")
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    export(network, description, path, quantization=quantization(network, description))
    return path, network


def test_all_but_head_and_sums_are_quantised_per_channel(tiny: tuple[Path, HRNetV2]) -> None:
    quantized, floats, model = _quantized_convolutions(tiny[0])
    assert [name for name in floats if ".last_layer." not in name] == []
    assert not any(".last_layer." in name for name in quantized)
    values = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and values.get(node.input[0], np.zeros(())).ndim == 4:
            weights, scales = values[node.input[0]], values[node.input[1]]
            assert weights.dtype == np.int8
            assert scales.shape == weights.shape[:1]
        if node.op_type == "Add" and not any(name in values for name in node.input):  # of maps: in float, unrounded
            assert all(makers[name].op_type != "QuantizeLinear" for name in node.input)
        assert not node.metadata_props  # the exporter's hold paths of this machine


def test_labels_agree_with_the_network(tiny: tuple[Path, HRNetV2]) -> None:
    path, network = tiny
    exported = open_exported(path)
    assert exported.description.precision == "int8"
    certificate = certify(network, exported, labelled(network, images(4), exported.description), [path])
    assert certificate.miou_torch == 1.0
    assert certificate.differing / certificate.pixels < 0.05
    assert "points" in (certificate.violation(-100.0) or "")
    assert certificate.violation(100.0) is None


def test_arithmetic_is_that_of_integers(tmp_path: Path) -> None:
    network, description = Layers(is_loud=False).eval(), described("onnx")
    export(network, description, tmp_path / "m.onnx", quantization=quantization(network, description))
    exported = open_exported(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    values = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    image = images(1)[0]
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (description.mean, description.std))
    x = normalize(torch.from_numpy(image).permute(2, 0, 1)[None], mean, std, "rgb").double()
    for number, name in enumerate(("first", "calm", "loud", "last")):
        prefix = f"network.network.{name}"
        weights = torch.from_numpy(values[f"{prefix}.weight_quantized"].astype(np.float64))
        scales = torch.from_numpy(values[f"{prefix}.weight_scale"].astype(np.float64))
        layer = getattr(network, name)
        makers = {output: node for node in model.graph.node for output in node.output}
        convolution = next(n for n in model.graph.node if n.op_type == "Conv" and n.input[1].startswith(prefix))
        source = makers[convolution.input[0]]  # DequantizeLinear of the input
        x, scale = _rounded(x, values[source.input[1]], values[source.input[2]], number)
        y = F.conv2d(x, weights, None, layer.stride, layer.padding) * scale * scales.view(1, -1, 1, 1)
        x = (y + layer.bias.double().view(1, -1, 1, 1)).relu()
        users = [n for n in model.graph.node if convolution.output[0] in n.input]
        for user in users:
            if user.op_type == "QuantizeLinear":
                codes, scale = _rounded(x, values[user.input[1]], values[user.input[2]], 1)
                x = codes * scale
    head = network.head
    expected = F.conv2d(x - x.mean(1, keepdim=True), head.weight.double(), head.bias.double())
    normalized = normalize(torch.from_numpy(image).permute(2, 0, 1)[None], mean, std, "rgb")
    found = exported.outputs(normalized)["out"].double()
    assert (found - expected).abs().mean() < 0.002 * expected.abs().mean()


def _rounded(x: torch.Tensor, scale: Any, zero: Any, number: int) -> tuple[torch.Tensor, float]:
    """Codes minus the zero point, and the scale."""
    codes = (x / float(scale)).round() + float(zero)
    return codes.clamp(0, 255) - float(zero), float(scale)


def test_sensitive_layers_go_back_to_float(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, description = Layers(is_loud=True).eval(), described("onnx")
    samples = labelled(network, images(12)[8:], description)
    drops, floats = [], []
    for max_drop in (100.0, 5.0):
        path = tmp_path / "m.onnx"
        export(network, description, path, quantization=quantization(network, description, max_drop))
        certificate = certify(network, open_exported(path), samples, [])
        assert certificate.miou is not None
        drops.append(100 * (1 - certificate.miou))
        floats.append({name.split(".")[2] for name in _quantized_convolutions(path)[1]})
    assert floats == [{"head"}, {"head", "loud", "last"}]  # those that write and read the loud channel
    assert drops[1] <= 5.0 < drops[0]
    assert "2 of 4 layers are float again" in capsys.readouterr().err
