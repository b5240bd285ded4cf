"""`hrseg fit` killed with SIGKILL at random moments, and started again with the same command."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hrseg.cli import main
from tests.restarts import RECIPE, rows

EACH_STEP = """
  callbacks:
    class_path: hrseg.callbacks.LastCheckpoint
    init_args: {every_n_steps: 1}
"""


def train_through_kills(number: int) -> None:
    """Trains in processes forked from this one, which has imported everything; kills `number` of them and counts."""
    import hrseg.cli.lightning  # noqa: F401 (the slow part of a start)

    torch.set_num_threads(1)  # a fork must find no threads
    moments = random.Random(0)
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            os._exit(main(["fit", "--config=recipe.yaml", "--run_dir=killed"]))
        deadline = time.monotonic() + (moments.uniform(0.3, 2.5) if kills < number else 600)
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.002)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
            continue
        assert status == 0, status
        print(f"{kills} kills")
        return


@pytest.mark.parametrize(
    ("kills", "epochs"), [(20, 12), pytest.param(200, 120, marks=pytest.mark.slow)], ids=["20 kills", "200 kills"]
)
def test_kills_change_nothing(
    kills: int, epochs: int, camvid_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    recipe = RECIPE.format(root=camvid_root, batch_size=2, crop_size=[32, 32], epochs=epochs).rstrip() + EACH_STEP
    Path("recipe.yaml").write_text(recipe)
    assert main(["fit", "--config=recipe.yaml", "--run_dir=whole"]) == 0
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
        f"from tests.cli.test_kills import train_through_kills; train_through_kills({kills})"
    )
    with Path("output.txt").open("w") as output:
        subprocess.run([sys.executable, "-W", "ignore", "-c", script], stdout=output, stderr=output, check=True)
    survived = int(Path("output.txt").read_text().splitlines()[-1].split()[0])
    assert survived >= kills // 2, "the training ended too soon"

    one, other = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("whole", "killed"))
    assert one["global_step"] == other["global_step"] == 2 * epochs
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    moments, others = (file["optimizer_states"][0]["state"] for file in (one, other))
    assert all(torch.equal(moments[i]["momentum_buffer"], others[i]["momentum_buffer"]) for i in moments)
    assert rows(Path("whole")) == rows(Path("killed"))
    assert sorted(path.name for path in Path("killed/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
