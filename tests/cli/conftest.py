"""The recipe of a toy training, shared by the command's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

RECIPE = """
model:
  network: hrnetv2_w18_small_v1
data:
  class_path: hrseg.CamVidDataModule
  init_args:
    root: {root}
    batch_size: 2
    crop_size: [32, 32]
    predict_split: val
    num_workers: 0
trainer:
  accelerator: cpu
  max_epochs: 1
  log_every_n_steps: 1
"""


@pytest.fixture
def recipe(tmp_path: Path, camvid_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE.format(root=camvid_root))
    return path
