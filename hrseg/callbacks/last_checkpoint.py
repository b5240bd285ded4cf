"""The checkpoint that a stopped run goes on from."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from hrseg.errors import OutputError


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`: written after every epoch, and when the training stops before its end, Ctrl-C included.

    Args:
        folder: Where the file goes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            "last",
            save_top_k=1,
            save_on_exception=True,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves where the training stands and says where."""
        path = Path(str(self.dirpath)) / "last.ckpt"
        if self._should_save_on_exception(trainer) and not isinstance(exception, OutputError):
            self._save_checkpoint(trainer, str(path))
        if path.is_file() and trainer.is_global_zero:
            print(f"stopped; {path} holds the state. --run_dir {path.parents[1]} goes on from there", flush=True)
