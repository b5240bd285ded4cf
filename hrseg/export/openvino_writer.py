"""OpenVINO files (.xml beside .bin), by OpenVINO's converter for `torch.export` programs."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from hrseg.export.graph import capture, quiet
from hrseg.export.quantization import Quantization
from hrseg.export.quantize_openvino import quantize_openvino
from hrseg.inference.exported.description import IMAGES, KEY, LOGITS, NORMALIZED, ExportDescription
from hrseg.utils.packages import require_packages


def write_openvino(
    network: nn.Module, description: ExportDescription, path: Path, quantization: Quantization | None = None
) -> ExportDescription:
    """Exports a network to OpenVINO; the weights go to a file of the same name with the suffix .bin.

    Args:
        network: Maps normalised images to logits; in evaluation mode.
        description: What the file is to hold.
        path: The .xml file.
        quantization: For int8.

    Returns:
        The description as stored.

    Raises:
        ConfigError: The network cannot be exported, or a package is missing.
    """
    require_packages("openvino", "openvino")
    import openvino
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    program, description = capture(network, description, with_steps=True)
    with quiet():
        decoder = TorchFXPythonDecoder.from_exported_program(program)
        model = openvino.convert_model(decoder)
    height, width = description.size or (-1, -1)
    model.reshape([-1, height, width, 3])
    model.input(0).get_tensor().set_names({IMAGES})
    names = (*description.outputs, NORMALIZED, LOGITS)
    results = model.get_results()
    for name, result in zip(names, results, strict=True):
        result.input_value(0).get_tensor().set_names({name})
    for result in results[len(description.outputs) :]:  # the values keep their names
        model.remove_result(result)
    if quantization is not None:
        model = quantize_openvino(model, network, decoder.fx_gm.graph, description, quantization)
    model.set_rt_info(json.dumps(json.loads(description.to_json())), KEY)
    openvino.save_model(model, path, compress_to_fp16=False)  # mean and std stay exact; weights have their type
    return description
