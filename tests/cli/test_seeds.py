from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hrseg.cli import main

SETTINGS = [
    *("--data=hrseg.CamVidDataModule", "--data.batch_size=2", "--data.crop_size=[32,32]", "--data.num_workers=0"),
    *("--model.network=hrnetv2_w18_small_v1", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.01"),
    *("--trainer.accelerator=cpu", "--trainer.limit_train_batches=1", "--trainer.enable_progress_bar=false"),
]


def seeds(run: Path) -> list[Any]:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    config = yaml.safe_load((run / "config.yaml").read_text())
    return [
        checkpoint["hrseg"]["seed"],
        checkpoint["CamVidDataModule"]["seed"],
        config["seed_everything"],
        config["data"]["init_args"]["seed"],
    ]


def test_seed_everything_is_that_of_the_data_too_and_a_restart_keeps_it(
    camvid_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit = ["fit", *SETTINGS, f"--data.root={camvid_root}", f"--run_dir={run}"]
    assert main([*fit, "--seed_everything=1", "--trainer.max_epochs=1"]) == 0
    assert seeds(run) == [1, 1, 1, None]
    assert main([*fit, "--seed_everything=2", "--trainer.max_epochs=2"]) == 0
    assert "seed_everything 1 -> 2 (without effect: the seed stays as in the checkpoint)" in capsys.readouterr().out
    assert seeds(run) == [1, 1, 1, None]
