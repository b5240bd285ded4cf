"""What a SLURM job tells of itself, and how it is put back into the queue."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import NamedTuple


class Tasks(NamedTuple):
    """How the processes of a run were started from outside.

    Args:
        nodes: Number of nodes.
        per_node: Processes on each.
        launcher: The program that started them.
    """

    nodes: int
    per_node: int
    launcher: str


def job() -> str | None:
    """The number by which SLURM knows this job, which a requeue keeps; of an array's task, "ARRAY_TASK".

    None outside of SLURM, and in an interactive job, where nothing is to be requeued and commands follow each other.
    """
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def tasks() -> Tasks | None:
    """How many processes there are; None where this process was not started by `srun`."""
    if job() is None or "SLURM_STEP_ID" not in os.environ or "SLURM_NTASKS" not in os.environ:
        return None
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ["SLURM_NNODES"])
    return Tasks(nodes, int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ["SLURM_NTASKS"]) // nodes, "srun")


def has_scontrol() -> bool:
    """Whether SLURM's commands are installed here; in a container they are not."""
    return shutil.which("scontrol") is not None


def requeue() -> str:
    """Puts the job back into the queue, unless it is not to be requeued or somebody has ended it.

    Returns:
        What became of it, for the log.
    """
    name = job()
    if name is None:
        return "no SLURM job to requeue"
    shown = _scontrol("show", "job", name)
    facts = dict(re.findall(r"\b(JobState|Requeue)=(\w+)", shown.stdout))
    if facts.get("Requeue") != "1":
        return f"SLURM job {name} may not be requeued; sbatch --requeue allows it"
    if facts.get("JobState") != "RUNNING":
        return f"SLURM job {name} is {facts.get('JobState')}, and not requeued"
    done = _scontrol("requeue", name)
    return f"SLURM job {name} {'requeued' if done.returncode == 0 else 'not requeued: ' + done.stderr.strip()}"


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=False)
