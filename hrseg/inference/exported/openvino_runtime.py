"""OpenVINO files."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrseg.errors import ConfigError, WeightsError
from hrseg.inference.exported.description import (
    IMAGES,
    KEY,
    LOGITS,
    NORMALIZED,
    ExportDescription,
    description_from_json,
)
from hrseg.inference.exported.network import ExportedNetwork
from hrseg.utils.packages import require_packages

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "bf16"}  # of the layers that are not quantised


def open_file(path: Path, device: str | None, trust: bool) -> ExportedNetwork:
    """See `open_exported`."""
    model = _read(path)
    import openvino

    usable = [name.lower() for name in openvino_core().available_devices]
    kind = (device or "cpu").lower()
    if kind not in usable:
        raise ConfigError(f"OpenVINO cannot use device {device}; expected {' or '.join(usable)}")
    description = description_from_json(_stored(model), path)
    version = openvino.__version__.partition("-")[0]
    return _OpenVinoNetwork(path, model, kind.upper(), description, f"OpenVINO {version} on {kind}")


def stored_description(path: Path) -> str | None:
    """See `read_description`."""
    return _stored(_read(path))


@cache
def openvino_core() -> Any:
    """OpenVINO's `Core`, one per process.

    The first compilation of a core installs a stack for signal handlers, and the core's end restores the one before it,
    even if that was freed since: after two cores, the next signal could end the process (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def _read(path: Path) -> Any:
    require_packages("openvino", "openvino")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise WeightsError(f"no file {weights}, which holds the weights of {path.name}; keep both together")
    try:
        return openvino_core().read_model(path)
    except RuntimeError as error:
        raise WeightsError(f"{path} cannot be read by OpenVINO: {' '.join(str(error).split())[:300]}") from error


def _stored(model: Any) -> str | None:
    return str(model.get_rt_info(KEY).value) if model.has_rt_info(KEY) else None


class _OpenVinoNetwork(ExportedNetwork):
    def __init__(self, path: Path, model: Any, device: str, description: ExportDescription, runs_on: str) -> None:
        super().__init__(path, description, runs_on)
        self._model = model
        self._device = device

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        results = self._whole({IMAGES: images})
        return {name: results[name] for name in self.description.outputs}

    def _run_network(self, normalized: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self._network({NORMALIZED: normalized})[LOGITS]
        return logits

    def _compiled(self, model: Any) -> Any:
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[self.description.precision]}
        if self._device == "CPU":
            options["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
        return openvino_core().compile_model(model, self._device, options)

    @cached_property
    def _whole(self) -> Any:
        return self._compiled(self._model)

    @cached_property
    def _network(self) -> Any:
        """The network alone, compiled."""
        return self._compiled(_network_alone(self._model, self.path))


def _network_alone(whole: Any, path: Path) -> Any:
    """The model from the normalised images to the logits."""
    import openvino
    from openvino import opset13 as ops

    model = whole.clone()
    values = {name: output for op in model.get_ops() for output in op.outputs() for name in output.get_names()}
    if NORMALIZED not in values or LOGITS not in values:
        raise WeightsError(f"{path} lacks the values {NORMALIZED} and {LOGITS}; export it again")
    normalized = ops.parameter([-1, 3, -1, -1], np.float32)
    normalized.output(0).get_tensor().set_names({NORMALIZED})
    # sizes are read from the images; those of the normalised ones are the same
    images = ops.transpose(normalized, np.array([0, 2, 3, 1]))
    for value, substitute in ((values[NORMALIZED], normalized), (model.input(0), images)):
        for target in value.get_target_inputs():
            if target.get_node().get_friendly_name() != images.get_friendly_name():
                target.replace_source_output(substitute.output(0))
    result = ops.result(values[LOGITS])
    return openvino.Model([result], [normalized], "network")
