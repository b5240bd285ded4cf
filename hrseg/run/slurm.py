"""The SLURM job that this process runs in, and its requeueing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import NamedTuple


class Tasks(NamedTuple):
    """The processes of a run that a launcher started.

    Args:
        nodes: Number of nodes.
        per_node: Processes per node.
        launcher: "srun" or "torchrun".
    """

    nodes: int
    per_node: int
    launcher: str


def job() -> str | None:
    """The job id, which stays the same after a requeue; "ARRAY_TASK" for a task of a job array.

    None outside SLURM and in an interactive job, which is not requeued and may run several commands.
    """
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def tasks() -> Tasks | None:
    """Nodes and processes per node; None if srun did not start this process."""
    if job() is None or "SLURM_STEP_ID" not in os.environ or "SLURM_NTASKS" not in os.environ:
        return None
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ["SLURM_NNODES"])
    return Tasks(nodes, int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ["SLURM_NTASKS"]) // nodes, "srun")


def has_scontrol() -> bool:
    """Whether SLURM's commands are installed here; in a container they are not."""
    return shutil.which("scontrol") is not None


def requeue() -> str:
    """Requeues the job, unless it forbids that or was cancelled.

    Returns:
        What happened, for the log.
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
