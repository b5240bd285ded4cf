"""PyTorch's own archives (.pt2)."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from hrseg.errors import ConfigError, WeightsError
from hrseg.inference.exported.description import KEY, NORMALIZED, ExportDescription, description_from_json
from hrseg.inference.exported.network import ExportedNetwork


def stored_description(path: Path) -> str | None:
    """See `read_description`."""
    return _read_archive(path)[1]


def _read_archive(path: Path) -> tuple[list[str], str | None]:
    """Names of the entries, and the description."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            stored = next((name for name in names if name.endswith(f"extra/{KEY}")), None)
            return names, None if stored is None else archive.read(stored).decode()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path} is no archive of torch.export ({error}); expected a file of `hrseg export`"
        ) from error


def open_file(path: Path, device: str | None, trust: bool) -> ExportedNetwork:
    """See `open_exported`."""
    names, text = _read_archive(path)
    description = description_from_json(text, path)
    if not trust:
        raise ConfigError(
            f"{path} is read by torch.export, which evaluates expressions of the file, and may hold machine code; "
            "give --trust (trust=True) if you know where it comes from"
        )
    if device not in (None, "cpu"):
        raise ConfigError(f"{path} was exported for the CPU; device {device} cannot run it")
    try:
        program = torch.export.load(path)
        is_compiled = any("/data/aotinductor/" in name for name in names)
        whole = torch._inductor.aoti_load_package(str(path)) if is_compiled else program.module()
    except Exception as error:  # by version and damage
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path} cannot be loaded by torch {torch.__version__} ({reason}); it was written by torch "
            f"{description.versions.get('torch', '?')}: export it again"
        ) from error
    runs_on = f"torch {torch.__version__.partition('+')[0]} {'AOTInductor' if is_compiled else 'program'} on cpu"
    return _TorchNetwork(path, program, whole, description, runs_on)


class _TorchNetwork(ExportedNetwork):
    def __init__(
        self,
        path: Path,
        program: ExportedProgram,
        whole: Callable[[Tensor], dict[str, Tensor]],
        description: ExportDescription,
        runs_on: str,
    ) -> None:
        super().__init__(path, description, runs_on)
        # not as attributes of the module, whose parameters they would become
        self._hidden: dict[str, Any] = {"program": program, "whole": whole}

    @torch.no_grad()
    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self._hidden["whole"](torch.from_numpy(images))
        return {name: outputs[name].numpy() for name in self.description.outputs}

    @torch.no_grad()
    def _run_network(self, normalized: np.ndarray) -> np.ndarray:
        (run,) = self._network
        logits: np.ndarray = run(torch.from_numpy(normalized).contiguous(memory_format=torch.channels_last)).numpy()
        return logits

    @cached_property
    def _network(self) -> tuple[fx.GraphModule]:
        """The network alone, in a tuple: no submodule."""
        return (_network_alone(self._hidden["program"]),)


def _network_alone(program: ExportedProgram) -> fx.GraphModule:
    """The graph from the normalised images to the logits."""
    whole = program.module()
    assert isinstance(whole, fx.GraphModule)
    of_part: dict[str, fx.Node] = {}
    for node in whole.graph.nodes:
        if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor):
            for path, _ in (node.meta.get("nn_module_stack") or {}).values():
                of_part[path] = node  # the last of each module is its output
    first, last = of_part["normalization"], of_part["logits"]
    needed: set[fx.Node] = {first}
    wanted = [last]
    while wanted:
        node = wanted.pop()
        if node not in needed:
            needed.add(node)
            wanted += node.all_input_nodes
    graph = fx.Graph()
    normalized = graph.placeholder(NORMALIZED)
    copies: dict[fx.Node, fx.Node] = {first: normalized}
    for node in whole.graph.nodes:
        if node in needed and node.op == "placeholder":  # only for sizes, which the normalised images have, too
            copies[node] = graph.call_method("permute", (normalized, 0, 2, 3, 1))
        elif node in needed and node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[last])
    return fx.GraphModule(whole, graph)
