"""Atomic checkpoint writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from hrseg.inference import Checkpoint
from hrseg.utils.files import replacing, save_pickle


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it; a kill or a full disk keeps the previous one.

    Lightning's own writer buffers the file in memory and moves it from the system's temporary directory, which copies
    instead of renaming if that directory is on another file system.

    Args:
        checkpoint: A checkpoint in memory, whose content Lightning gets once instead of reading the file again.
    """

    def __init__(self, checkpoint: Checkpoint | None = None) -> None:
        self._checkpoint = checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes `checkpoint` to a local path.

        Raises:
            OutputError: The disk is full or not writable; the previous checkpoint is intact.
        """
        with replacing(Path(path)) as temporary:
            save_pickle(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Returns the content of a local checkpoint; see Lightning's `TorchCheckpointIO`."""
        known = self._checkpoint
        if known is None or not known.content or Path(path) != known.path:
            return super().load_checkpoint(path, map_location, weights_only)
        content = dict(known.content)
        known.content.clear()  # frees the tensors, whoever else holds it
        return content
