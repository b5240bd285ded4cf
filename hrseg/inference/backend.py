"""Names of networks, and of what runs them, for messages and files."""

from __future__ import annotations

import torch
from torch import nn

from hrseg.inference.exported import ExportedNetwork

_PRECISIONS = {"32-true": "fp32", "16-mixed": "fp16", "bf16-mixed": "bf16", "64-true": "fp64"}


def network_name(network: nn.Module) -> str:
    """The name in `hrseg models`, or the class; of an exported file, that of the network it was exported from."""
    if isinstance(network, ExportedNetwork):
        return network.description.network
    name: str = getattr(network, "config", {}).get("name") or type(network).__name__
    return name


def runs_on(network: nn.Module, device: object, precision: str = "fp32") -> str:
    """Runtime with its version, device and precision.

    Args:
        network: Any network; an exported file states its own runtime.
        device: Where torch runs.
        precision: Of torch: fp32, bf16 or fp16, or what Lightning's `Trainer` calls it.
    """
    if isinstance(network, ExportedNetwork):
        return network.runs_on
    return f"torch {torch.__version__.partition('+')[0]} on {device}, {_PRECISIONS.get(precision, precision)}"
