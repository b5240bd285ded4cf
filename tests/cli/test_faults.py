"""External faults: processes that die or hang, full memory and disks."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from hrseg.cli import main
from tests.processes import exit_codes, run, start
from tests.restarts import RECIPE, rows

IN_TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--timeout_minutes=0.2"]
SECONDS = 90.0


class FullDisk(Callback):
    """From the third step on, writing more than a megabyte to a file fails."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class FullMemory(Callback):
    """From the second step on, allocations fail."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1:
            in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use, resource.getrlimit(resource.RLIMIT_AS)[1]))


class KilledWorker(Callback):
    """At the second step, a dataloader worker is killed."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
            os.kill(
                next(pid for pid, command in commands.items() if b"resource_tracker" not in command), signal.SIGKILL
            )


@pytest.fixture
def recipe(camvid_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    text = RECIPE.format(root=camvid_root, batch_size=1, crop_size=[48, 64], epochs=4)
    Path("recipe.yaml").write_text(text)
    return "recipe.yaml"


def command(*arguments: str) -> str:
    return f"import sys; from hrseg.cli import main; sys.exit(main({['fit', *arguments]}))"


def fit(*arguments: str, **callbacks: str) -> tuple[int, str]:
    """Exit code and output of a training in a separate process."""
    added = [f"--trainer.callbacks+=tests.cli.test_faults.{name}" for name in callbacks.values()]
    done = run(command(*arguments, *added), Path.cwd(), SECONDS)
    return done.returncode, done.stdout + done.stderr


def last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith("hrseg: ")]
    assert lines, output[-3000:]
    return lines[-1]


@pytest.mark.parametrize(("victim", "number"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)], ids=str)
def test_the_other_ranks_end_when_a_process_dies_or_hangs(victim: int, number: signal.Signals, recipe: str) -> None:
    output = Path("output.txt")
    script = command("--config", recipe, "--run_dir=run", "--trainer.max_epochs=1000", *IN_TWO)
    ranks = start(script, 2, Path.cwd(), output)
    try:
        wait_until(lambda: len(rows(Path("run"))) > 3, output)
        os.kill(ranks[victim].pid, number)
        began = time.monotonic()
        assert exit_codes([ranks[1 - victim]], SECONDS) == [2]
        assert time.monotonic() - began < 60
    finally:
        exit_codes(ranks, timeout=0)
    assert f"rank {1 - victim} of 2 stops: another rank has ended or has not answered" in last_line(output.read_text())


def wait_until(what: Callable[[], bool], output: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, output.read_text()[-3000:]
        time.sleep(0.05)


def test_a_full_disk_leaves_the_last_good_checkpoint(recipe: str) -> None:
    settings = ["--config", recipe, "--trainer.callbacks+=hrseg.callbacks.LastCheckpoint"]
    settings.append("--trainer.callbacks.every_n_steps=1")
    assert main(["fit", *settings, "--run_dir=whole"]) == 0
    code, output = fit(*settings, "--run_dir=run", disk="FullDisk")
    assert code == 2
    assert "last.ckpt cannot be written" in last_line(output)
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["last.ckpt"]

    assert main(["fit", *settings, "--run_dir=run"]) == 0
    one, other = (
        torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in ("whole", "run")
    )
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert rows(Path("whole")) == rows(Path("run"))


def test_out_of_memory_says_what_would_help(recipe: str) -> None:
    large = ["--data.batch_size=4", "--data.crop_size=[256,256]", "--data.num_workers=0"]
    code, output = fit("--config", recipe, "--run_dir=run", *large, memory="FullMemory")
    assert code == 2
    line = last_line(output)
    assert "out of memory in a step of 4 crops of 256x256" in line
    assert "GiB on cpu at the peak" in line
    assert "--data.batch_size 2 --trainer.accumulate_grad_batches 2; " in line
    assert "--config experiments/options/gradient_checkpointing.yaml; " in line
    assert line.endswith("--config experiments/options/bf16.yaml")


def test_a_killed_dataloader_worker(recipe: str) -> None:
    code, output = fit("--config", recipe, "--run_dir=run", worker="KilledWorker")
    assert code == 2
    assert "the system killed a dataloader worker" in last_line(output)
