"""Checkpoints that are whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from hrseg.utils.files import replacing, save_pickle


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a kill or a full disk leaves the one before intact.

    Lightning's own writer collects the file in memory and moves it from the system's temporary folder, which is a
    copy, not a rename, where that folder lies on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes `checkpoint` to a local path.

        Raises:
            OutputError: The disk is full or not writable; the checkpoint before is intact.
        """
        with replacing(Path(path)) as temporary:
            save_pickle(checkpoint, temporary)
