"""Atomic checkpoint writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from hrseg.utils.files import replacing, save_pickle


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it; a kill or a full disk keeps the previous one.

    Lightning's own writer buffers the file in memory and moves it from the system's temporary directory, which copies
    instead of renaming if that directory is on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes `checkpoint` to a local path.

        Raises:
            OutputError: The disk is full or not writable; the previous checkpoint is intact.
        """
        with replacing(Path(path)) as temporary:
            save_pickle(checkpoint, temporary)
