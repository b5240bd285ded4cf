"""Checkpoints that are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from hrseg.errors import HrsegError
from hrseg.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a kill or a full disk leaves the one before intact.

    Lightning's own writer collects the file in memory and moves it from the system's temporary folder, which is a
    copy, not a rename, where that folder lies on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes `checkpoint` to a local path.

        Raises:
            HrsegError: The disk is full or not writable.
        """
        try:
            with replacing(Path(path)) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise HrsegError(
                f"cannot write checkpoint {path}: {error.strerror}; the checkpoint before it is intact. "
                "Make room, or choose another --run_dir, and start again with the same --run_dir to go on"
            ) from error
