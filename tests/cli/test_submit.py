from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from hrseg.cli import main
from hrseg.utils.images import write_image

CONFIG = """
model: {{network: hrnetv2_w18}}
trainer: {{max_epochs: 1}}
data:
  class_path: hrseg.CityscapesDataModule
  init_args: {{root: {root}, batch_size: 2, crop_size: [64, 64]}}
"""


def test_the_predictions_of_a_run_are_packed(
    cityscapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(CONFIG.format(root="elsewhere"))
    for frame in range(2):
        label = np.full((64, 128), 7, np.uint8)
        write_image(run / "predict" / "labels" / f"bonn_{frame:06d}_000019.png", label)
    assert main(["submit", str(run), "--root", str(cityscapes_root)]) == 0
    assert f"2 predictions of Cityscapes test: {run / 'submission.zip'}" in capsys.readouterr().out
    assert len(zipfile.ZipFile(run / "submission.zip").namelist()) == 2

    (run / "predict" / "labels" / "bonn_000000_000019.png").unlink()
    assert main(["submit", str(run), "--root", str(cityscapes_root), "--output", str(tmp_path / "other.zip")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 2 images of Cityscapes test have no prediction" in line
    assert not (tmp_path / "other.zip").exists()


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", str(tmp_path)]) == 2
    assert "config.yaml; expected the folder of a run" in capsys.readouterr().err
