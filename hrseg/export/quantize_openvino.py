"""Quantisation of OpenVINO models, by NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from hrseg.export.graph import quiet
from hrseg.export.quantization import OUTLIERS, Predict, Quantization, Scorer, announce, hold, rank, stays_float
from hrseg.inference.exported import ExportDescription
from hrseg.inference.exported.description import IMAGES, LABELS, LOGITS
from hrseg.inference.exported.openvino_runtime import openvino_core
from hrseg.utils.packages import require_packages
from hrseg.utils.progress import track_progress

_SUMS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
_RUNS = 4  # of the model, in which time NNCF observes the ranges of an image


def quantize_openvino(
    model: Any, network: nn.Module, graph: fx.Graph, description: ExportDescription, quantization: Quantization
) -> Any:
    """Quantises a model: symmetric weights per channel, ranges of activations from quantiles, biases corrected.

    Layers go back to float, the most sensitive first, until mIoU drops by no more than asked for; the certificate tells
    whether that was reached.

    Args:
        model: As OpenVINO converted it; not changed.
        network: The network in it.
        graph: What it was converted from; its operations are called NODE/....
        description: Sizes that the model takes.
        quantization: Images and the bound.

    Raises:
        ConfigError: NNCF is not installed.
    """
    require_packages("openvino", "nncf")
    with quiet():
        import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    floats = {node.name for node in graph.nodes if node.op == "call_function" and _is_float(network, node)}
    names = [name for op in model.get_ops() if (name := op.get_friendly_name()).partition("/")[0] in floats]
    ranges = RangeEstimatorParametersSet.MEAN_QUANTILE
    ranges.min.quantile_outlier_prob = ranges.max.quantile_outlier_prob = OUTLIERS
    quantization = quantization.fitted(description)
    layers = [
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() in _WEIGHTED and op.get_friendly_name() not in names
    ]
    announce(_predict(model), quantization, len(layers), _RUNS)
    nncf.set_log_level(logging.ERROR)
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # its bars
        quantized = nncf.quantize(
            model,
            nncf.Dataset(_Calibration(quantization.images)),
            subset_size=len(quantization.images),
            ignored_scope=nncf.IgnoredScope(names=names, validate=False),
            advanced_parameters=AdvancedQuantizationParameters(activations_range_estimator_params=ranges),
        )
    if not quantization.has_labels:
        return quantized
    scorer = Scorer(_predict, description, quantization.scored)
    scorer.drop(model)
    return hold(
        lambda back: _with_float(quantized, model, back),
        lambda: rank(
            layers,
            lambda layer: _run(_with_float(quantized, model, [name for name in layers if name != layer]), LOGITS),
            _run(model, LOGITS),
            quantization.images,
        ),
        scorer.drop,
        quantization.max_drop,
    )


def _with_float(quantized: Any, model: Any, layers: Collection[str]) -> Any:
    """A copy of the quantised model with the weights, biases and inputs of some layers as in the original."""
    from openvino import opset13 as ops

    copy = quantized.clone()
    originals = {op.get_friendly_name(): op for op in model.get_ops()}

    def restore(op: Any, index: int) -> None:
        source = op.input_value(index).get_node()
        original = originals[op.get_friendly_name()].input_value(index).get_node()
        if source.get_type_name() == "FakeQuantize":
            op.input(index).replace_source_output(source.input_value(0))
        elif original.get_type_name() == "Constant":
            op.input(index).replace_source_output(ops.constant(original.data).output(0))

    for op in copy.get_ordered_ops():
        if op.get_friendly_name() in layers:
            restore(op, 0)
            restore(op, 1)
            for target in op.output(0).get_target_inputs():
                if target.get_node().get_type_name() == "Add" and target.get_index() == 0:
                    restore(target.get_node(), 1)  # the bias
    copy.validate_nodes_and_infer_types()
    return copy


class _Calibration:
    """Images as the model takes them, with progress."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[np.ndarray]:
        return track_progress((image[None] for image in self._images), "calibrating", len(self))


def _is_float(network: nn.Module, node: fx.Node) -> bool:
    stack = list((node.meta.get("nn_module_stack") or {"": ("", None)}).values())
    return stays_float(network, stack[-1][0], node.target in _SUMS)


def _run(model: Any, output: str) -> Predict:
    """Compiles a model, to one that maps an image to an output."""

    copy = model.clone()
    if output != LABELS:
        values = {name: value for op in copy.get_ops() for value in op.outputs() for name in value.get_names()}
        copy.add_outputs([values[output]])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino_core().compile_model(copy, "CPU", options)
    return lambda image: compiled({IMAGES: image[None]})[output]


def _predict(model: Any) -> Predict:
    run = _run(model, LABELS)
    return lambda image: run(image)[0]
