"""Quantisation of ONNX models by ONNX Runtime: pairs of QuantizeLinear and DequantizeLinear around convolutions."""

from __future__ import annotations

import contextlib
import io
import tempfile
from ast import literal_eval
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hrseg.export.quantization import OUTLIERS, Predict, Quantization, Scorer, announce, hold, rank, stays_float
from hrseg.inference.exported import ExportDescription
from hrseg.inference.exported.description import IMAGES, LABELS, LOGITS
from hrseg.utils.progress import track_progress

_SCOPES = "pkg.torch.onnx.name_scopes"  # of a node's metadata: the paths of its modules, and its own name
_QUANTIZED = ("Conv",)
_RUNS = 10  # of the model, in which time the histograms of an image are made
_AT_ONCE = 4  # images whose activations are in memory


def is_float(network: nn.Module, node: Any) -> bool:
    """Whether a node that torch's exporter wrote is not quantised; see `stays_float`."""
    paths: list[str] = literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return stays_float(network, paths[-2] if len(paths) > 1 else "", node.op_type == "Add")


def quantize_onnx(
    model: Any, floats: Collection[str | None], description: ExportDescription, quantization: Quantization
) -> Any:
    """Quantises the convolutions of a model: symmetric weights per channel, ranges of activations from quantiles.

    Layers go back to float, the most sensitive first, until mIoU drops by no more than asked for; the certificate tells
    whether that was reached.

    Args:
        model: An ONNX ModelProto; not changed.
        floats: Names of nodes that stay float.
        description: Sizes that the model takes.
        quantization: Images and the bound.
    """
    import onnx

    quantization = quantization.fitted(description)
    inferred = onnx.shape_inference.infer_shapes(model)
    layers = [node.name for node in model.graph.node if node.op_type in _QUANTIZED and node.name not in floats]
    announce(_predict(model), quantization, len(layers), _RUNS)
    ranges = _ranges(inferred, quantization.images)

    def make(back: Sequence[str]) -> Any:
        return _quantized(inferred, ranges, [name for name in layers if name not in back])

    if not quantization.has_labels:
        return make(())
    scorer = Scorer(_predict, description, quantization.scored)
    scorer.drop(model)
    return hold(
        make,
        lambda: rank(
            layers,
            lambda layer: _run(_quantized(inferred, ranges, [layer]), LOGITS),
            _run(inferred, LOGITS),
            quantization.images,
        ),
        scorer.drop,
        quantization.max_drop,
    )


def _ranges(model: Any, images: Sequence[np.ndarray]) -> Any:
    """Ranges of the activations, from histograms."""
    import onnx
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    class Reader:
        def __init__(self, batch: Sequence[np.ndarray]) -> None:
            self._rest = iter(batch)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._rest, None)
            return None if image is None else {IMAGES: image[None]}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            list(_QUANTIZED),
            augmented_model_path=str(Path(folder, "augmented.onnx")),
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"percentile": 100 * (1 - OUTLIERS)},
        )
        for batch in track_progress(_batches(images), "calibrating", -(-len(images) // _AT_ONCE)):
            with contextlib.redirect_stdout(io.StringIO()):
                calibrator.collect_data(Reader(batch))
        with contextlib.redirect_stdout(io.StringIO()):
            return calibrator.compute_data()


def _batches(images: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(images), _AT_ONCE):
        yield [images[index] for index in range(start, min(start + _AT_ONCE, len(images)))]


def _quantized(model: Any, ranges: Any, layers: Sequence[str]) -> Any:
    """A copy with these convolutions quantised."""
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if layers:  # none means all
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=list(layers),
            nodes_to_exclude=[],
            op_types_to_quantize=list(_QUANTIZED),
            extra_options={},
        )
        quantizer.quantize_model()
        copy = quantizer.model.model
    return copy


def _run(model: Any, output: str) -> Predict:
    """Loads a model, to one that maps an image to an output."""
    import onnx
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if output not in [value.name for value in copy.graph.output]:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> np.ndarray:
        value: np.ndarray = session.run([output], {IMAGES: image[None]})[0]
        return value

    return run


def _predict(model: Any) -> Predict:
    run = _run(model, LABELS)
    return lambda image: run(image)[0]
