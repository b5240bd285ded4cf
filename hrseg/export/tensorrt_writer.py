"""TensorRT engines, built from ONNX on the GPU that will run them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from hrseg.errors import ConfigError
from hrseg.export.onnx_writer import convert
from hrseg.inference.exported.description import IMAGES, NORMALIZED, ExportDescription
from hrseg.inference.exported.tensorrt_engine import join_engine, require_gpu
from hrseg.utils.packages import require_packages

# (height, width) of the smallest images, those that kernels are chosen for, and the largest
_SIZES = ((32, 32), (1024, 2048), (2048, 4096))
_MOST_IMAGES = 4


def write_tensorrt(network: nn.Module, description: ExportDescription, path: Path) -> ExportDescription:
    """Builds a TensorRT engine; the precision is that of the graph, as in strongly typed networks.

    The engine also gives the logits, from which hrseg computes other protocols than "whole". Without `size`, it takes
    up to 4 images of 32x32 to 2048x4096 pixels.

    Args:
        network: Maps normalised images to logits; in evaluation mode.
        description: What the file is to hold.
        path: The .engine file.

    Returns:
        The description as stored.

    Raises:
        ConfigError: There is no GPU, a package is missing, or TensorRT refuses the network.
    """
    require_packages("tensorrt", "tensorrt", "onnx", "onnxscript")
    gpu = require_gpu()
    import tensorrt

    exported, description = convert(network, description)
    outputs = exported.model.graph.outputs
    del outputs[[value.name for value in outputs].index(NORMALIZED)]  # LOGITS stay an output
    versions = {**description.versions, "tensorrt": tensorrt.__version__, "gpu": gpu}
    description = description.replaced(versions=versions, smallest=1 if description.size else _SIZES[0][0])
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    # always so from TensorRT 11 on
    typed = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    definition = builder.create_network(typed)
    parser = tensorrt.OnnxParser(definition, logger)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.onnx")
        exported.save(model)
        parsed = parser.parse_from_file(str(model))
    if not parsed:
        reasons = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ConfigError(f"TensorRT cannot read {description.network}: {' '.join(' '.join(reasons).split())[:300]}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    sizes = [description.size] * 3 if description.size else _SIZES
    counts = (1, 1, _MOST_IMAGES)
    profile.set_shape(IMAGES, *((count, *size, 3) for count, size in zip(counts, sizes, strict=True)))
    config.add_optimization_profile(profile)
    with torch.no_grad():
        engine = builder.build_serialized_network(definition, config)
    if engine is None:
        raise ConfigError(f"TensorRT {tensorrt.__version__} builds no engine of {description.network}; see its log")
    path.write_bytes(join_engine(description, bytes(engine)))
    return description
