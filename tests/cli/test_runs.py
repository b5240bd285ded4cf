"""A run from start to use, through the command."""

from __future__ import annotations

import csv
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from hrseg.cli import main
from hrseg.utils.images import read_image, read_label, write_image


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_from_start_to_use(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", f"--config={recipe}"]) == 0
    run = Path("runs/toy/0")
    for file in ("config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "val/iou.csv"):
        assert (run / file).is_file(), file
    assert list(run.glob("events.out.*"))
    logged = rows(run / "metrics.csv")
    columns = {name for row in logged for name, value in row.items() if value}
    assert {"train/loss", "val/loss", "val/miou", "images/s", "data_wait", "peak_memory_gib", "lr-SGD"} <= {
        name.split("/network")[0] for name in columns
    }

    # the same folder resumes, and keeps its files
    assert main(["fit", f"--config={recipe}", f"--run_dir={run}", "--trainer.max_epochs=2"]) == 0
    last, config = run / "checkpoints" / "last.ckpt", run / "config.yaml"
    told = f"resuming from {last} with settings that differ from {config}: trainer.max_epochs 1 -> 2\n"
    assert told in capsys.readouterr().out
    kept = yaml.safe_load((run / "config_until_step_2.yaml").read_text())
    assert [c["trainer"]["max_epochs"] for c in (kept, yaml.safe_load(config.read_text()))] == [1, 2]
    more = rows(run / "metrics.csv")
    assert [row["step"] for row in more[: len(logged)]] == [row["step"] for row in logged]
    assert len(more) > len(logged)

    # another optimiser is refused, and changes nothing
    assert main(["fit", f"--config={config}", f"--run_dir={run}", "--model.optimizer=torch.optim.AdamW"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{last} comes from a training with SGD, but this one is with AdamW and cannot resume" in told
    assert told.endswith(f" with --model.weights {run}/checkpoints/best.ckpt")
    assert yaml.safe_load(config.read_text())["model"]["optimizer"] is None

    # config.yaml repeats the run as a new one
    assert main(["fit", f"--config={run / 'config.yaml'}"]) == 0
    first, second = (yaml.safe_load(Path(f"runs/toy/{n}/config.yaml").read_text()) for n in (0, 1))
    assert first == second

    # scored and used without a recipe
    assert main(["validate", f"--ckpt_path={run}/checkpoints/best.ckpt"]) == 0
    assert main(["test", f"--ckpt_path={run}/checkpoints/best.ckpt"]) == 0
    assert (run / "test" / "scores.json").is_file()
    assert read_image(run / "test" / "contact_sheet.png").ndim == 3
    assert main(["predict", f"--ckpt_path={run}/checkpoints/best.ckpt"]) == 0
    assert read_label(run / "predict" / "labels" / "0001.png").shape == (48, 64)
    assert (run / "predict" / "overlays" / "0001.png").is_file()

    predict_any_images(run / "checkpoints" / "best.ckpt", tmp_path, capsys)


def predict_any_images(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    write_image(images / "grey.png", np.full((50, 70), 99, np.uint8))
    write_image(images / "deep" / "colour.png", np.full((41, 64, 3), 99, np.uint8))
    (images / "broken.png").write_bytes(b"no image")
    write_image(images / "tiny.png", np.full((20, 64), 99, np.uint8))
    (images / "notes.txt").write_text("no image either")
    capsys.readouterr()
    assert main(["predict", f"--ckpt_path={checkpoint}", "--images", str(images), "--output", "out"]) == 1
    captured = capsys.readouterr()
    (unreadable,) = captured.err.splitlines()
    assert "broken.png" in unreadable
    assert "3 of 4 images predicted\nskipped 1 other files (1 .txt)" in captured.out
    assert sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.png")) == [
        "labels/deep/colour.png",
        "labels/grey.png",
        "labels/tiny.png",
        "overlays/deep/colour.png",
        "overlays/grey.png",
        "overlays/tiny.png",
    ]
    assert read_label(Path("out/labels/grey.png")).shape == (50, 70)
    assert read_label(Path("out/labels/tiny.png")).shape == (20, 64)
    assert main(["predict", f"--ckpt_path={checkpoint}", f"--images={images}/g*.png", "--output=one"]) == 0


def test_a_signal_while_pytorch_is_imported_is_not_lost(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def import_module(name: str) -> ModuleType:
        os.kill(os.getpid(), signal.SIGUSR1)
        return importlib.import_module(name)

    monkeypatch.setattr("hrseg.cli.import_module", import_module)
    assert main(["fit", f"--config={recipe}", "--run_dir=run"]) == 128 + signal.SIGUSR1
    assert "last.ckpt holds step 0" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_saves_and_says_where(recipe: Path, tmp_path: Path) -> None:
    script = "from hrseg.cli import main; raise SystemExit(main())"
    arguments = ["fit", f"--config={recipe}", "--run_dir=run", "--trainer.max_epochs=10000"]
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (metrics.is_file() and len(rows(metrics)) > 3):
        time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "last.ckpt holds step" in output
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
