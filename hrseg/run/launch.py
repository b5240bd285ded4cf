"""World size set by torchrun or SLURM's srun, checked against the user's options."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hrseg.errors import ConfigError
from hrseg.run import slurm, torchrun


def tasks() -> slurm.Tasks | None:
    """Nodes and processes per node; None if neither launcher started this process."""
    return torchrun.tasks() or slurm.tasks()  # torchrun may run within a SLURM job


def is_first_process() -> bool:
    """Whether this is rank 0 according to the environment, before Lightning's `Trainer` exists."""
    if tasks() is not None:
        return (os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0")) == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))


def processes(given: Mapping[str, object]) -> dict[str, int]:
    """Lightning's `num_nodes` and `devices` by the launcher; empty without one.

    Args:
        given: The user's `num_nodes` and `devices`; None and "auto" leave them to the launcher.

    Raises:
        ConfigError: The user gives other numbers.
    """
    started = tasks()
    if started is None:
        return {}
    numbers = {"num_nodes": started.nodes, "devices": started.per_node}
    for key, number in numbers.items():
        if given.get(key) not in (None, "auto", number, str(number)):
            ways = "--nodes, --ntasks-per-node" if started.launcher == "srun" else "--nnodes, --nproc-per-node"
            raise ConfigError(
                f"trainer.{key} is {given[key]}, but {started.launcher} started {started.per_node} processes on each "
                f"of {started.nodes} nodes; leave it out, or start as many ({ways})"
            )
    return numbers


def require_srun() -> None:
    """Checks that the tasks of a SLURM job would train together.

    Raises:
        ConfigError: There are several, but srun was left out; or srun started them in an interactive job, in which
            Lightning treats each process as a separate training.
    """
    number = int(os.environ.get("SLURM_NTASKS", "1"))
    if number == 1 or tasks() is not None:
        return
    if slurm.job() is not None:
        raise ConfigError(
            f"SLURM job {slurm.job()} has {number} tasks, but srun, which starts them, was left out; write srun before "
            "the command, or ask for one task (--ntasks=1)"
        )
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise ConfigError(
            f"srun started {number} processes in an interactive job, where each would train for itself; write "
            "srun --job-name=hrseg"
        )
