"""Quantisation of OpenVINO models, by NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from hrseg.export.graph import quiet
from hrseg.export.quantization import (
    OUTLIERS,
    RANKING_IMAGES,
    ROUNDS,
    Predict,
    Quantization,
    Scorer,
    announce,
    stays_float,
)
from hrseg.inference.exported import ExportDescription
from hrseg.inference.exported.description import IMAGES, LABELS
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
    import openvino

    with quiet():
        import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedAccuracyRestorerParameters,
        AdvancedQuantizationParameters,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    floats = {node.name for node in graph.nodes if node.op == "call_function" and _is_float(network, node)}
    names = [name for op in model.get_ops() if (name := op.get_friendly_name()).partition("/")[0] in floats]
    ranges = RangeEstimatorParametersSet.MEAN_QUANTILE
    ranges.min.quantile_outlier_prob = ranges.max.quantile_outlier_prob = OUTLIERS
    quantization = quantization.fitted(description)
    number = len(quantization.images)
    scored = quantization.scored
    announce(
        _predict(openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})),
        quantization,
        sum(op.get_type_name() in _WEIGHTED and op.get_friendly_name() not in names for op in model.get_ops()),
        _RUNS,
    )
    common: dict[str, Any] = {
        "calibration_dataset": nncf.Dataset(_Calibration(quantization.images)),
        "subset_size": number,
        "ignored_scope": nncf.IgnoredScope(names=names, validate=False),
    }
    parameters = AdvancedQuantizationParameters(activations_range_estimator_params=ranges)
    nncf.set_log_level(logging.ERROR)
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # its bars
        if not quantization.has_labels:
            return nncf.quantize(model, **common, advanced_parameters=parameters)
        return nncf.quantize_with_accuracy_control(
            model,
            **common,
            validation_dataset=nncf.Dataset(scored),
            validation_fn=Scorer(_predict, description, len(scored)),
            max_drop=quantization.max_drop / 100,
            advanced_quantization_parameters=parameters,
            advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
                max_num_iterations=ROUNDS, ranking_subset_size=RANKING_IMAGES, num_ranking_workers=1
            ),
        )


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


def _predict(compiled: Any) -> Predict:
    return lambda image: compiled({IMAGES: image[None]})[LABELS][0]
