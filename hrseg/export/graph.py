"""The graph that an exported file holds: from uint8 images to labels, with everything in between."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.value_ranges import bound_sympy

from hrseg.errors import ConfigError
from hrseg.export.resize import resize_bilinear
from hrseg.inference import normalize
from hrseg.inference.exported.description import (
    CONFIDENCE,
    LABELS,
    LOGITS,
    NORMALIZED,
    PROBABILITIES,
    ExportDescription,
)
from hrseg.models import Segmenter, fold_batch_norm, outputs_of
from hrseg.utils.upsample import upsample

_MULTIPLES = (1, 32)  # of the sides; encoders of segmentation_models_pytorch need 32
_SAMPLE = (160, 224)  # pixels; maps at stride 32 of a quarter of it have sides above 1, which torch.export specialises
_DTYPES = {"fp32": torch.float32, "int8": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class SegmentationGraph(nn.Module):
    """Maps images (N, H, W, 3) uint8 RGB to the outputs of an exported file, by name.

    Args:
        network: Maps normalised images (N, 3, H, W) to logits; in evaluation mode.
        description: Preprocessing and outputs.
        with_steps: Whether to return the normalised images and the logits, too, so that they have names in the graph.
    """

    def __init__(self, network: nn.Module, description: ExportDescription, with_steps: bool) -> None:
        super().__init__()
        self.description = description
        self.with_steps = with_steps
        self.normalization = _Normalization(description)
        self.network = _Network(network, _DTYPES[description.precision])
        self.logits = _Logits()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps (N, H, W, 3) uint8 to the outputs."""
        normalized = self.normalization(images)
        logits = self.logits(self.network(normalized))
        scores = logits
        if self.description.input_size is not None:  # first to that size, as `score_images` does
            scores = upsample(scores, self.description.input_size, self.description.align_corners)
        scores = upsample(scores, images.shape[1:3], self.description.align_corners)
        wanted = self.description.outputs
        outputs: dict[str, Tensor] = {LABELS: scores.argmax(1).to(torch.uint8)}
        if CONFIDENCE in wanted or PROBABILITIES in wanted:
            probabilities = (scores / self.description.temperature).softmax(1)
            if CONFIDENCE in wanted:
                outputs[CONFIDENCE] = probabilities.amax(1)
            if PROBABILITIES in wanted:
                outputs[PROBABILITIES] = probabilities
        return outputs | ({NORMALIZED: normalized, LOGITS: logits} if self.with_steps else {})


class _Normalization(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, description: ExportDescription) -> None:
        super().__init__()
        self.input_size = description.input_size
        self.channel_order = description.channel_order
        self.register_buffer("mean", torch.tensor(description.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(description.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Maps (N, H, W, 3) uint8 to (N, 3, h, w) float32."""
        x = images.permute(0, 3, 1, 2).float()
        if self.input_size is not None:
            x = resize_bilinear(x, self.input_size)
        return normalize(x, self.mean, self.std, self.channel_order)


class _Logits(nn.Module):
    """A module of its own, so that its place in the graph can be found by name."""

    def forward(self, logits: Tensor) -> Tensor:
        """Returns the logits in float32."""
        return logits.float()


class _Network(nn.Module):
    """The network alone: normalised images to float32 logits, whatever its own precision."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, normalized: Tensor) -> Tensor:
        """Maps (N, 3, h, w) to (N, K, h', w')."""
        return outputs_of(self.network, normalized.to(self.dtype))["out"]


def capture(
    network: nn.Module,
    description: ExportDescription,
    with_steps: bool,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[ExportedProgram, ExportDescription]:
    """Captures the graph with `torch.export`: for any batch and size, or for any batch of `description.size`.

    Args:
        network: Not changed.
        description: Preprocessing, outputs and size.
        with_steps: As for `SegmentationGraph`.
        memory_format: Of the weights.

    Returns:
        The program, and the description with the multiple that sides must be of.

    Raises:
        ConfigError: The network cannot be captured.
    """
    own = fold_batch_norm(network) if isinstance(network, Segmenter) else deepcopy(network)
    own = own.to(memory_format=memory_format)
    graph = SegmentationGraph(own, description, with_steps).eval()
    reason = ""
    for multiple in (1,) if description.size else _MULTIPLES:
        # odd sides, where any are taken
        height, width = description.size or (side + 3 * (multiple == 1) for side in _SAMPLE)
        sides: dict[int, Any] = {1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
        if multiple > 1:
            sides = {1: multiple * Dim("height", min=2), 2: multiple * Dim("width", min=2)}
        images = torch.zeros(2, height, width, 3, dtype=torch.uint8)
        dynamic = {0: Dim.DYNAMIC, **({} if description.size else sides)}
        try:
            with torch.no_grad(), quiet():
                if not isinstance(network, Segmenter):
                    graph(images[:1])  # segmentation_models_pytorch checks the size only outside of an export
                program = torch.export.export(graph, (images,), dynamic_shapes=(dynamic,))
        except Exception as error:  # whatever the network's own code and torch's tracing raise
            reason = reason or f"{type(error).__name__}: {error}"
        else:
            return program, description.replaced(multiple=multiple)
    kind = description.network
    size = f"for {height}x{width}" if description.size else "for any size"
    remedy = "its code must not depend on values" if description.size else "try --size HEIGHTxWIDTH"
    raise ConfigError(f"{kind} cannot be exported {size}: {' '.join(reason.split())[:300]}; {remedy}")


def smallest_side(program: ExportedProgram) -> int:
    """The least height and width that a program takes; torch checks them."""
    images = next(node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
    ranges = program.range_constraints
    sides = [side.node.expr for side in images.meta["val"].shape[1:3] if isinstance(side, torch.SymInt)]
    least = [int(bound_sympy(side, ranges).lower) for side in sides]
    return max([1, *least])


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what the exporters say about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.onnx", "torch", "onnxscript", "onnx_ir", "")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
