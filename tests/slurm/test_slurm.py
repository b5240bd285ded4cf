"""A real cluster of two nodes on the loopback: `make test-slurm`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hrseg.utils.images import write_image
from tests.restarts import RECIPE, rows

pytestmark = pytest.mark.slurm

PROJECT = Path(__file__).parents[2]
CLUSTER = Path(__file__).with_name("cluster.sh")
SECONDS = 240.0
# a checkpoint after each step, for what comes without a signal
EACH_STEP = ("--trainer.callbacks+=hrseg.callbacks.LastCheckpoint", "--trainer.callbacks.every_n_steps=1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run(["bash", CLUSTER, "start", folder], check=True)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        yield
    finally:
        subprocess.run(["bash", CLUSTER, "stop", folder], check=True)
        del os.environ["SLURM_CONF"]


@pytest.fixture
def place(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, a recipe, and `hrseg` on the path of the jobs."""
    rng = np.random.default_rng(0)
    for split, number in {"train": 9, "val": 3}.items():
        for frame in range(number):
            write_image(tmp_path / "camvid" / split / f"{frame}.png", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
            label = rng.integers(0, 12, (48, 64), dtype=np.uint8)
            write_image(tmp_path / "camvid" / f"{split}annot" / f"{frame}.png", label)
    recipe = RECIPE.format(root=tmp_path / "camvid", batch_size=1, crop_size=[48, 64], epochs=20)
    # as of some other machine: what SLURM starts counts
    (tmp_path / "toy.yaml").write_text(recipe.replace("trainer:", "trainer:\n  devices: 4"))
    for name in ("train.sbatch", "array.sbatch", "evaluate.sbatch"):  # the nodes here have no GPUs, and little memory
        lines = (PROJECT / "experiments" / "slurm" / name).read_text().splitlines()
        (tmp_path / name).write_text("\n".join(line for line in lines if "--gpus" not in line and "--mem" not in line))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def sbatch(*arguments: str) -> str:
    size = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--output=out-%j.txt"]
    return run("sbatch", "--parsable", *size, *arguments).strip()


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wait_until(what: Callable[[], object], job: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        if time.monotonic() > deadline:
            output = Path(f"out-{job}.txt")
            pytest.fail(
                f"waited {SECONDS} s in vain; {output.read_text()[-3000:] if output.is_file() else 'no output'}"
            )
        time.sleep(0.2)


def is_over(job: str) -> bool:
    return (
        not run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")
        .strip()
        .startswith(("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"))
    )


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    content = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 80  # 20 epochs of 9 images, 2 of them a step
    return dict(content["state_dict"])


def test_a_job_on_two_nodes_that_is_requeued_is_as_if_it_was_never_stopped(place: Path) -> None:
    whole = sbatch("train.sbatch", "--config", "toy.yaml")
    wait_until(lambda: is_over(whole), whole)
    expected = weights(place / "runs" / "toy" / whole)

    job = sbatch("train.sbatch", "--config", "toy.yaml")
    folder = place / "runs" / "toy" / job
    wait_until(lambda: len(rows(folder)) > 12, job)
    run("scancel", "--signal=USR1", job)
    wait_until(lambda: "Restarts=1" in run("scontrol", "show", "job", job), job)
    output = Path(f"out-{job}.txt")
    assert f"SLURM job {job} requeued" in output.read_text()
    assert output.read_text().count("holds step") == 1  # of one process
    wait_until(lambda: "JobState=PENDING" in run("scontrol", "show", "job", job), job)
    run("scontrol", "update", f"JobId={job}", "StartTime=now+2")  # not two minutes; its credentials count in seconds
    wait_until(lambda: is_over(job), job)

    assert f"resuming from runs/toy/{job}/checkpoints/last.ckpt" in output.read_text()
    found = weights(folder)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert rows(folder) == rows(place / "runs" / "toy" / whole)
    assert len(list(folder.glob("events.out.*"))) == 2


def test_a_job_that_is_cancelled_saves_and_stays_away(place: Path) -> None:
    for folder in ("train", "trainannot"):  # a long epoch, within which only the signal makes a checkpoint
        for frame in range(9, 900):
            (place / "camvid" / folder / f"{frame}.png").symlink_to(f"{frame % 9}.png")
    job = sbatch("train.sbatch", "--config", "toy.yaml")
    folder = place / "runs" / "toy" / job
    wait_until(lambda: len(rows(folder)) > 12, job)
    run("scancel", job)
    wait_until(lambda: is_over(job), job)
    assert "JobState=CANCELLED" in run("scontrol", "show", "job", job)
    assert "Restarts=0" in run("scontrol", "show", "job", job)
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step >= 6
    assert f"holds step {step}" in Path(f"out-{job}.txt").read_text()


def test_a_job_whose_node_goes_down_is_started_again(place: Path) -> None:
    whole = sbatch("train.sbatch", "--config", "toy.yaml", *EACH_STEP)
    wait_until(lambda: is_over(whole), whole)
    expected = weights(place / "runs" / "toy" / whole)

    job = sbatch("train.sbatch", "--config", "toy.yaml", *EACH_STEP)
    folder = place / "runs" / "toy" / job
    wait_until(lambda: len(rows(folder)) > 12, job)
    run("scontrol", "update", "NodeName=hrseg2", "State=DOWN", "Reason=test")  # SLURM kills the job, and requeues it
    wait_until(lambda: "Restarts=1" in run("scontrol", "show", "job", job), job)
    wait_until(lambda: "JobState=PENDING" in run("scontrol", "show", "job", job), job)
    subprocess.run(["scontrol", "update", "NodeName=hrseg2", "State=RESUME"], check=False)  # it may be back already
    run("scontrol", "update", f"JobId={job}", "StartTime=now+2")  # not two minutes; its credentials count in seconds
    wait_until(lambda: is_over(job), job)

    assert f"resuming from runs/toy/{job}/checkpoints/last.ckpt" in Path(f"out-{job}.txt").read_text()
    found = weights(folder)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert rows(folder) == rows(place / "runs" / "toy" / whole)


def test_an_array_trains_each_line_in_a_folder_of_its_own(place: Path) -> None:
    Path("sweep.txt").write_text("--model.power 0.5 --trainer.max_epochs 1\n--model.power 0.7 --trainer.max_epochs 1\n")
    size = ["--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1", "--output=out-%A_%a.txt"]
    job = run("sbatch", "--parsable", *size, "--array=0-1", "array.sbatch", "sweep.txt", "--config", "toy.yaml").strip()
    wait_until(lambda: not run("squeue", "--noheader", f"--jobs={job}").strip(), job)
    for task, power in enumerate(("0.5", "0.7")):
        folder = place / "runs" / "toy" / f"{job}_{task}"
        assert f"power: {power}" in (folder / "config.yaml").read_text()
        assert (folder / "checkpoints" / "last.ckpt").is_file(), Path(f"out-{job}_{task}.txt").read_text()[-2000:]


def test_two_nodes_score_each_image_once(place: Path) -> None:
    train = sbatch("train.sbatch", "--config", "toy.yaml", "--trainer.max_epochs", "1")
    wait_until(lambda: is_over(train), train)
    checkpoint = f"runs/toy/{train}/checkpoints/best.ckpt"
    job = sbatch("evaluate.sbatch", "--ckpt_path", checkpoint, "--data.test_split", "train")
    wait_until(lambda: is_over(job), job)
    scores = place / "runs" / "toy" / train / "test" / "scores.json"
    by_two = scores.read_text()
    command = [sys.executable, "-m", "hrseg", "test", "--ckpt_path", checkpoint, "--data.test_split", "train"]
    subprocess.run([*command, "--trainer.devices", "1"], check=True, capture_output=True, timeout=SECONDS)
    assert json.loads(scores.read_text())["miou"] == json.loads(by_two)["miou"]


def test_numbers_that_srun_did_not_start_are_told_in_one_line(place: Path) -> None:
    job = sbatch("train.sbatch", "--config", "toy.yaml", "--trainer.devices", "3")
    wait_until(lambda: is_over(job), job)
    assert "trainer.devices is 3, but srun started 1 processes on each of 2 nodes" in Path(f"out-{job}.txt").read_text()


def test_a_script_without_srun(place: Path) -> None:
    """A training is refused, since most of the job would wait in vain; what follows one needs no second process."""
    script = """#!/bin/bash
        hrseg fit --config toy.yaml --run_dir one
        echo "left with $?"
        srun hrseg fit --config toy.yaml --run_dir two --trainer.max_epochs 1
        hrseg test --ckpt_path two/checkpoints/best.ckpt --trainer.devices 1
    """
    Path("script").write_text(script)
    job = sbatch("script")
    wait_until(lambda: is_over(job), job)
    output = Path(f"out-{job}.txt").read_text()
    assert f"SLURM job {job} has 2 tasks, but srun, which starts them, was left out" in output
    assert "left with 2" in output
    assert not Path("one").exists()
    assert Path("two/test/scores.json").is_file(), output[-2000:]


def test_srun_in_an_interactive_job(place: Path) -> None:
    """Without the name each process would train for itself, in a folder of its own."""
    script = """
        srun hrseg fit --config toy.yaml --trainer.max_epochs 1 || echo "left with $?"
        srun --job-name=hrseg hrseg fit --config toy.yaml --trainer.max_epochs 1
    """
    command = ["salloc", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "bash", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert "srun started 2 processes in an interactive job" in done.stderr
    assert "left with 2" in done.stdout
    assert done.stdout.count("training took") == 1, done.stdout + done.stderr
    assert len(list(place.glob("runs/toy/*"))) == 1


@pytest.fixture(scope="module", autouse=True)
def needs_slurm() -> None:
    if shutil.which("slurmctld") is None:
        pytest.skip("SLURM is not installed: tests/slurm/cluster.sh install")
