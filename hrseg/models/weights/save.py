"""`save_weights`: a network's weights and config as safetensors."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hrseg.errors import WeightsError
from hrseg.models.networks.base import Network
from hrseg.models.weights.read import OWN_KEY
from hrseg.utils.files import replacing


def save_weights(network: Network, path: str | os.PathLike[str]) -> None:
    """Saves a network's weights and its `config` as safetensors, atomically.

    Args:
        network: On any device, in any memory format and dtype.
        path: Ends in .safetensors; missing folders are created.

    Raises:
        WeightsError: The path has another suffix.
        OutputError: The file cannot be written; an earlier file stays intact.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: weights are saved as safetensors; give a name that ends in .safetensors")
    with replacing(path) as temporary:
        write_weights(network, temporary)


def write_weights(network: Network, path: Path) -> None:
    """Writes the file of `save_weights`, not atomically.

    Raises:
        OSError: Writing failed.
    """
    tensors = {key: tensor.detach().contiguous() for key, tensor in network.state_dict().items()}
    write_tensors(tensors, path, {"format": "pt", OWN_KEY: json.dumps({"network": network.config})})


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes safetensors, not atomically.

    Raises:
        OSError: Writing failed.
    """
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # wraps the system's error
        raise OSError(str(error)) from error
