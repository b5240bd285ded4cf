"""Two processes by any launcher: the same training in one folder, stopped by a signal to one of them and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.data.datasets.test_camvid import write_camvid
from tests.processes import PROJECT, exit_codes, start
from tests.restarts import RECIPE, rows

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "hrseg"]
OF_LIGHTNING = ["-m", "hrseg"]
IN_TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launchers")
    path, root = folder / "recipe.yaml", write_camvid(folder / "camvid")
    path.write_text(RECIPE.format(root=root, batch_size=1, crop_size=[48, 64], epochs=4))
    return path


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("LOCAL_RANK", "HRSEG_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def assert_same(one: Path, other: Path) -> None:
    a, b = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (one, other))
    assert a["global_step"] == b["global_step"] == 8
    assert [name for name in a["state_dict"] if not torch.equal(a["state_dict"][name], b["state_dict"][name])] == []
    assert rows(one) == rows(other)


def test_whoever_starts_the_processes(recipe: Path) -> None:
    config = f"--config={recipe}"
    by_lightning = python(*OF_LIGHTNING, "fit", config, "--experiment=lightning", *IN_TWO)
    by_torchrun = python(*TORCHRUN, "fit", config, "--experiment=torchrun", "--trainer.accelerator=cpu")
    for done in (by_lightning, by_torchrun):
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("fit: hrnetv2_w18_small_v1_ocr") == 1  # printed once, not by each process
    assert [path.name for path in Path("runs").rglob("[0-9]*") if path.is_dir()] == ["0", "0"]
    assert_same(Path("runs/lightning/0"), Path("runs/torchrun/0"))


def test_numbers_that_torchrun_did_not_start(recipe: Path) -> None:
    done = python(*TORCHRUN, "fit", f"--config={recipe}", "--trainer.devices=3")
    assert done.returncode != 0
    assert "trainer.devices is 3, but torchrun started 2 processes on each of 1 nodes" in done.stderr


def fit(recipe: Path, run_dir: Path) -> str:
    arguments = ["fit", f"--config={recipe}", f"--run_dir={run_dir}", *IN_TWO]
    return f"import sys; from hrseg.cli import main; sys.exit(main({arguments}))"


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """An uninterrupted run."""
    folder = recipe.with_name("whole")
    assert exit_codes(start(fit(recipe, folder), 2, recipe.parent), timeout=200) == [0, 0]
    return folder


def workers(process: int) -> list[int]:
    """Its dataloader workers."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.parametrize(
    "number", [signal.SIGUSR1, signal.SIGTERM], ids=["USR1 to one", "TERM to all and their workers"]
)
def test_a_signal_stops_both(number: signal.Signals, recipe: Path, whole: Path) -> None:
    script = fit(recipe, Path("run"))
    stopped = start(script, 2, Path.cwd(), Path("output.txt"))
    deadline = time.monotonic() + 120
    while len(rows(Path("run"))) < 4:
        assert time.monotonic() < deadline, Path("output.txt").read_text()
        time.sleep(0.01)
    everybody = [pid for rank in stopped for pid in (*workers(rank.pid), rank.pid)]
    assert len(everybody) >= 4
    for pid in [stopped[1].pid] if number == signal.SIGUSR1 else everybody:
        os.kill(pid, number)
    assert exit_codes(stopped, timeout=120) == [128 + number] * 2, Path("output.txt").read_text()
    assert Path("output.txt").read_text().count("holds step") == 1
    step = torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 0 < step < 8

    assert exit_codes(start(script, 2, Path.cwd()), timeout=200) == [0, 0]
    assert_same(whole, Path("run"))
