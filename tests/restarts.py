"""A training that is random wherever it can be, for the tests that stop it and let it go on."""

from __future__ import annotations

import csv
from pathlib import Path

RECIPE = """
model:
  network: hrnetv2_w18_small_v1_ocr
  network_args: {{mid_channels: 16, key_channels: 8, dropout: 0.5}}
data:
  class_path: hrseg.CamVidDataModule
  init_args: {{root: {root}, batch_size: {batch_size}, crop_size: {crop_size}, num_workers: 1}}
trainer:
  accelerator: cpu
  max_epochs: {epochs}
  log_every_n_steps: 1
"""
_OF_THE_CLOCK = ("images/s", "data_wait", "peak_memory_gib")


def rows(run_dir: Path) -> list[dict[str, str]]:
    """What a run logged, but for what no two runs have in common; nothing before the first row."""
    path = run_dir / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: text for name, text in row.items() if name not in _OF_THE_CLOCK} for row in csv.DictReader(file)]
