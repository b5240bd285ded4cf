"""OpenVINO files (.xml beside .bin), by OpenVINO's converter for `torch.export` programs."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from hrseg.export.graph import capture, quiet
from hrseg.inference.exported.description import IMAGES, KEY, LOGITS, NORMALIZED, ExportDescription
from hrseg.utils.packages import require_packages


def write_openvino(network: nn.Module, description: ExportDescription, path: Path) -> ExportDescription:
    """Exports a network to OpenVINO; the weights go to a file of the same name with the suffix .bin.

    Args:
        network: Maps normalised images to logits; in evaluation mode.
        description: What the file is to hold.
        path: The .xml file.

    Returns:
        The description as stored.

    Raises:
        ConfigError: The network cannot be exported, or a package is missing.
    """
    require_packages("openvino", "openvino")
    import openvino

    program, description = capture(network, description, with_steps=True)
    with quiet():
        model = openvino.convert_model(program)
    height, width = description.size or (-1, -1)
    model.reshape([-1, height, width, 3])
    model.input(0).get_tensor().set_names({IMAGES})
    names = (*description.outputs, NORMALIZED, LOGITS)
    results = model.get_results()
    for name, result in zip(names, results, strict=True):
        result.input_value(0).get_tensor().set_names({name})
    for result in results[len(description.outputs) :]:  # the values keep their names
        model.remove_result(result)
    model.set_rt_info(json.dumps(json.loads(description.to_json())), KEY)
    openvino.save_model(model, path, compress_to_fp16=description.precision == "fp16")
    return description
