"""`hrseg fit` killed with SIGKILL at random moments, and started again with the same command."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hrseg.cli import main
from tests.processes import meeting, run
from tests.restarts import RECIPE, rows

EACH_STEP = """
  callbacks:
    class_path: hrseg.callbacks.LastCheckpoint
    init_args: {every_n_steps: 1}
"""


def train_through_kills(number: int, processes: int, run_dir: str) -> None:
    """Trains in forked processes; kills them `number` times and prints the count.

    Of several, now all are killed and now one, whereupon the others have to end by themselves.
    """
    chance = random.Random(0)
    kills = 0
    while True:
        is_last = kills == number
        # timeout of a rank that is left alone
        children = start(processes, run_dir, "--timeout_minutes", "30" if is_last else "0.05")
        latest = time.monotonic() + (600 if is_last else chance.uniform(0.3, 2.5))
        known, moment = len(rows(Path(run_dir))), latest
        status: dict[int, int] = {}
        while len(status) < processes and time.monotonic() < moment:
            status |= {child: code for child in children if child not in status and (code := ended(child)) is not None}
            if moment == latest and not is_last and len(rows(Path(run_dir))) > known + 1:
                moment = min(latest, time.monotonic() + chance.uniform(0, 0.15))  # so that there is enough to kill
            time.sleep(0.002)
        if set(status.values()) == {0}:
            print(f"{kills} kills")
            return
        assert not is_last, status
        running = [child for child in children if child not in status]
        for child in chance.sample(running, chance.randint(min(1, len(running)), len(running))):
            os.kill(child, signal.SIGKILL)
        for child in running:
            os.waitpid(child, 0)
        kills += bool(running)


def start(processes: int, run_dir: str, *options: str) -> list[int]:
    """Forks the processes of a training."""
    arguments = ["fit", "--config=recipe.yaml", f"--run_dir={run_dir}", *options]
    if processes > 1:
        arguments += [f"--trainer.devices={processes}", "--trainer.strategy=ddp"]
        os.environ |= meeting()
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            if processes > 1:
                os.environ["LOCAL_RANK"] = str(rank)
            os._exit(main(arguments))
        children.append(child)
    return children


def ended(child: int) -> int | None:
    """The status of a process that has ended."""
    is_over, status = os.waitpid(child, os.WNOHANG)
    return status if is_over else None


def curves(run_dir: str) -> dict[str, list[tuple[int, float]]]:
    """Scalars of a run's event file: step and value by name, without those that depend on the clock."""
    events = EventAccumulator(run_dir, size_guidance={"scalars": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name not in ("images/s", "data_wait", "peak_memory_gib")]
    assert "train/loss" in names
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


@pytest.mark.parametrize(
    ("kills", "processes", "epochs"),
    [
        (20, 1, 18),
        (20, 2, 18),
        pytest.param(200, 1, 240, marks=pytest.mark.slow),
        pytest.param(100, 2, 120, marks=pytest.mark.slow),
    ],
)
def test_kills_change_nothing(
    kills: int, processes: int, epochs: int, camvid_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    recipe = RECIPE.format(root=camvid_root, batch_size=2 // processes, crop_size=[48, 64], epochs=epochs)
    Path("recipe.yaml").write_text(recipe.rstrip() + EACH_STEP)
    for run_dir, number in {"whole": 0, "killed": kills}.items():
        call = f"train_through_kills({number}, {processes}, {run_dir!r})"
        done = run(f"from tests.cli.test_kills import *; {call}", tmp_path, timeout=3600)
        assert done.returncode == 0, done.stderr
    survived = int(done.stdout.splitlines()[-1].split()[0])
    assert survived == kills, "the training ended too soon"

    one, other = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("whole", "killed"))
    assert one["global_step"] == other["global_step"] == 2 * epochs
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    moments, others = (file["optimizer_states"][0]["state"] for file in (one, other))
    assert all(torch.equal(moments[i]["momentum_buffer"], others[i]["momentum_buffer"]) for i in moments)
    assert rows(Path("whole")) == rows(Path("killed"))
    assert curves("whole") == curves("killed")
    assert sorted(path.name for path in Path("killed/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
