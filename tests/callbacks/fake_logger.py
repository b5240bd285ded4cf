"""A logger like those of Weights & Biases and MLflow that writes to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger


class FakeLogger(Logger):
    """Appends a line to SAVE_DIR/fake/ID.jsonl for each call."""

    def __init__(self, save_dir: str = ".", id: str | None = None, project: str = "none", broken: bool = False) -> None:
        super().__init__()
        self.place = Path(save_dir) / "fake"
        self.broken = broken
        self.project = project
        self.id = id

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        if self.broken:
            raise OSError("no answer from\nthe server")
        if self.id is None:
            self.place.mkdir(parents=True, exist_ok=True)
            self.id = f"run{len(list(self.place.iterdir()))}"
            (self.place / f"{self.id}.jsonl").touch()
        return self.id

    def write(self, kind: str, content: Any) -> None:
        with (self.place / f"{self.version}.jsonl").open("a") as file:
            file.write(json.dumps([kind, content]) + "\n")

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.write("metrics", [step, sorted(metrics)])

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        if self.broken:
            raise OSError("no answer from\nthe server")
        self.write("hyperparameters", params)

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        self.write("image", [key, images[0].shape, step])


def lines(folder: Path, identifier: str, kind: str) -> list[Any]:
    """The logged values of a kind."""
    text = (folder / "fake" / f"{identifier}.jsonl").read_text()
    return [content for found, content in map(json.loads, text.splitlines()) if found == kind]
