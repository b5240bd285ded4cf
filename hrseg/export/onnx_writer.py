"""ONNX files, by torch's exporter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hrseg.export.graph import capture, quiet
from hrseg.export.quantization import Quantization
from hrseg.export.quantize_onnx import is_float, quantize_onnx
from hrseg.inference.exported.description import IMAGES, KEY, LOGITS, NORMALIZED, PROBABILITIES, ExportDescription
from hrseg.utils.packages import require_packages

_OPSET = 18


def write_onnx(
    network: nn.Module, description: ExportDescription, path: Path, quantization: Quantization | None = None
) -> ExportDescription:
    """Exports a network to ONNX.

    Args:
        network: Maps normalised images to logits; in evaluation mode.
        description: What the file is to hold.
        path: The file; weights of more than 2 GB go beside it.
        quantization: For int8.

    Returns:
        The description as stored.

    Raises:
        ConfigError: The network cannot be exported, or a package is missing.
    """
    require_packages("onnx", "onnx", "onnxscript", "onnxruntime")
    exported, description = convert(network, description)
    model = exported.model
    del model.graph.outputs[len(description.outputs) :]  # their names stay
    model.metadata_props.update({KEY: description.to_json(), **deepness_keys(description)})
    floats = {node.name for node in model.graph if is_float(network, node)}
    for node in model.graph:
        node.metadata_props.clear()  # such as paths of this machine's files
    if quantization is None:
        exported.save(path)
    else:
        import onnx

        onnx.save(quantize_onnx(exported.model_proto, floats, description, quantization), path)
    return description


def convert(network: nn.Module, description: ExportDescription) -> tuple[torch.onnx.ONNXProgram, ExportDescription]:
    """Converts a network to an ONNX model with the outputs of the description, the normalised images and the logits.

    Returns:
        The model, and the description with what the capture found.

    Raises:
        ConfigError: The network cannot be exported.
    """
    program, description = capture(network, description, with_steps=True)
    names = [*description.outputs, NORMALIZED, LOGITS]
    with quiet():
        exported = torch.onnx.export(
            program, dynamo=True, input_names=[IMAGES], output_names=names, opset_version=_OPSET, verbose=False
        )
    assert exported is not None
    _name_axes(exported.model.graph, description)
    return exported, description


def _name_axes(graph: Any, description: ExportDescription) -> None:
    """Names the axes of inputs and outputs, which torch numbers."""
    import onnx_ir

    sides = description.size or ("height", "width")
    shapes = {IMAGES: (*sides, 3), PROBABILITIES: (description.labels.num_classes, *sides)}
    for value in (*graph.inputs, *graph.outputs):
        if value.name == IMAGES or value.name in description.outputs:
            value.shape = onnx_ir.Shape(["batch", *shapes.get(value.name, sides)])


def deepness_keys(description: ExportDescription) -> dict[str, str]:
    """Metadata that the QGIS plugin Deepness reads.

    Source:
        PUTvision/qgis-plugin-deepness, docs/source/creators/creators_add_metadata_to_model.rst and
        src/deepness/processing/models/model_base.py.
    """
    values: dict[str, Any] = {
        "model_type": "Segmentor",
        "class_names": dict(enumerate(description.labels.class_names)),
    }
    if description.size is not None and description.size[0] == description.size[1]:
        values["tile_size"] = description.size[0]
    return {key: json.dumps(value) for key, value in values.items()}
