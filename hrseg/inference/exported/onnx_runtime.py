"""ONNX files on ONNX Runtime."""

from __future__ import annotations

from functools import cached_property
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

_Provider = tuple[str, dict[str, str]]
_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


def open_file(path: Path, device: str | None, trust: bool) -> ExportedNetwork:
    """See `open_exported`."""
    require_packages("onnx", "onnxruntime", "onnx")
    import onnxruntime

    usable = [name for name, provider in _PROVIDERS.items() if provider in onnxruntime.get_available_providers()]
    kind, _, index = (device or usable[0]).partition(":")
    if kind not in usable:
        raise ConfigError(
            f"ONNX Runtime cannot use device {device}; expected {' or '.join(usable)} "
            "(for CUDA: pip install onnxruntime-gpu)"
        )
    options: dict[str, str] = {"device_id": index} if index else {}
    provider = (_PROVIDERS[kind], options)
    session = _session(str(path), provider, path)
    description = description_from_json(_stored(session), path)
    return _OnnxNetwork(path, session, provider, description, f"ONNX Runtime {onnxruntime.__version__} on {kind}")


def stored_description(path: Path) -> str | None:
    """See `read_description`."""
    require_packages("onnx", "onnxruntime")
    return _stored(_session(str(path), ("CPUExecutionProvider", {}), path))


def _stored(session: Any) -> str | None:
    text: str | None = session.get_modelmeta().custom_metadata_map.get(KEY)
    return text


def _session(model: str | bytes, provider: _Provider, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(model, options, providers=[provider])
    except Exception as error:  # each status has a class of its own
        raise WeightsError(f"{path} cannot be loaded by ONNX Runtime: {' '.join(str(error).split())[:300]}") from error


class _OnnxNetwork(ExportedNetwork):
    def __init__(
        self,
        path: Path,
        session: Any,
        provider: _Provider,
        description: ExportDescription,
        runs_on: str,
    ) -> None:
        super().__init__(path, description, runs_on)
        self._provider = provider
        self._whole = session

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        names = list(self.description.outputs)
        return dict(zip(names, self._whole.run(names, {IMAGES: images}), strict=True))

    def _run_network(self, normalized: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self._network.run([LOGITS], {NORMALIZED: normalized})[0]
        return logits

    @cached_property
    def _network(self) -> Any:
        """A session of the network alone."""
        return _session(_network_alone(self.path), self._provider, self.path)


def _network_alone(path: Path) -> bytes:
    """The model from the normalised images to the logits."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(path)
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    needed: set[int] = set()
    wanted = [LOGITS]
    while wanted:
        name = wanted.pop()
        node = makers.get(name)
        if name == NORMALIZED or node is None or id(node) in needed:
            continue
        needed.add(id(node))
        wanted += node.input
    if LOGITS not in makers or NORMALIZED not in makers:
        raise WeightsError(f"{path} lacks the values {NORMALIZED} and {LOGITS}; export it again")
    # sizes are read from the images; those of the normalised ones are the same
    nodes = [helper.make_node("Transpose", [NORMALIZED], [IMAGES], perm=[0, 2, 3, 1])]
    nodes += [node for node in graph.node if id(node) in needed]
    used = {name for node in nodes for name in node.input}
    alone = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(NORMALIZED, TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, None)],
        [entry for entry in graph.initializer if entry.name in used],
    )
    made = helper.make_model(alone, opset_imports=model.opset_import, ir_version=model.ir_version)
    made.functions.extend(model.functions)
    serialized: bytes = made.SerializeToString()
    return serialized
