"""Options of Lightning's `Trainer`: our defaults, and checks that it lacks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from hrseg.errors import ConfigError
from hrseg.run import launch
from hrseg.utils.parallel import usable_cores

DEFAULTS = {
    "num_sanity_val_steps": 1,
    "log_every_n_steps": 10,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # the data module has its own samplers
}
_MINIMA = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "num_sanity_val_steps": -1,
    "gradient_clip_val": 0,
}
_MAX_ON_CPU = 64  # processes, unless there are more cores
# variables that locate the other nodes, other than those of srun and torchrun
_MULTI_NODE = ("MASTER_ADDR", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def check_options(options: Mapping[str, Any]) -> None:
    """Checks options of Lightning's `Trainer` that would make it fail late or wait forever.

    Raises:
        ConfigError: One is out of range.
    """
    for name, least in _MINIMA.items():
        if isinstance(value := options.get(name), int | float) and not value >= least:
            raise ConfigError(f"trainer.{name} is {value}; expected {least} or more")
    if options.get("val_check_interval") == 0:
        raise ConfigError("trainer.val_check_interval is 0; expected steps from 1, or a fraction of an epoch above 0")
    if options.get("barebones"):
        raise ConfigError("trainer.barebones leaves out loggers, checkpoints and progress, which a run has; leave it")
    devices, most = options.get("devices"), max(_MAX_ON_CPU, usable_cores())
    is_cpu = options.get("accelerator") == "cpu" or not torch.cuda.is_available()
    if is_cpu and str(devices).isdecimal() and int(str(devices)[:20]) > most:
        raise ConfigError(f"trainer.devices is {devices}; expected 1 to {most} processes on this machine's CPU")
    nodes = options.get("num_nodes") or 1
    if nodes > 1 and launch.tasks() is None and not any(name in os.environ for name in _MULTI_NODE):
        raise ConfigError(
            f"trainer.num_nodes is {nodes}, but nothing says where the others are; start with srun or torchrun, or set "
            "MASTER_ADDR, MASTER_PORT and NODE_RANK on each"
        )
