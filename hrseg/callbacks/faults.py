"""Known failures, reported as one-line errors: out of memory, lost ranks, dead workers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.errors import TrainingError
from hrseg.utils.memory import peak_memory

_NO_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")
# gloo's messages about a rank that died or does not answer; NCCL's errors have a class of their own
_LOST = re.compile(r"closed by peer|reset by peer|Timed out waiting|Application timeout|Broken pipe")
_NO_WORKER = re.compile(r"DataLoader worker \(pid")


class Faults(Callback):
    """Translates known failures (out of memory, lost rank, dead worker) into a `TrainingError` with the remedy.

    Attributes:
        explained: The error to raise instead of the original one; None if the original is clear.
        has_started: Whether the first step has begun; errors before that are configuration errors.
    """

    explained: TrainingError | None = None
    has_started = False

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.has_started = True

    on_sanity_check_start = on_train_start = on_validation_start = on_test_start = on_predict_start = _start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Translates the exception if it is a known one."""
        text = str(exception)
        if isinstance(exception, (torch.OutOfMemoryError, MemoryError)) or _NO_MEMORY.search(text):
            self.explained = TrainingError(_out_of_memory(trainer, pl_module))
        elif isinstance(exception, torch.distributed.DistError) or (
            isinstance(exception, RuntimeError) and _LOST.search(text)
        ):
            self.explained = TrainingError(
                f"rank {trainer.global_rank} of {trainer.world_size} stops: another rank has ended or has not "
                "answered for --timeout_minutes; see its message. Resume from the last checkpoint with "
                f"--run_dir {trainer.default_root_dir}"
            )
        elif isinstance(exception, RuntimeError) and _NO_WORKER.search(text):
            self.explained = TrainingError(
                "the system killed a dataloader worker, most often because it ran out of memory; /dev/shm has "
                f"{_free_in_shm()} left. Lower data.num_workers, or give a container --shm-size 8g or --ipc host"
            )


def _free_in_shm() -> str:
    place = Path("/dev/shm")  # on Linux
    return f"{shutil.disk_usage(place).free / 2**20:.0f} MiB" if place.is_dir() else "an unknown amount"


def _out_of_memory(trainer: Trainer, task: LightningModule) -> str:
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
    peak = f"{peak_memory(task.device):.2f} GiB on {task.device} at the peak"
    if not hasattr(data, "eval_batch_size"):  # a custom data module
        return f"out of memory, {peak}"
    to_bf16 = {"--config experiments/options/bf16.yaml": trainer.precision == "32-true"}
    if not trainer.training:
        what = f"{data.eval_batch_size} whole images at once (data.eval_batch_size)"
        protocol = "val_protocol" if trainer.validating or trainer.sanity_checking else "test_protocol"
        helps = {
            "--data.eval_batch_size 1": data.eval_batch_size > 1,
            f"--model.{protocol} slide": True,
            **to_bf16,
            "--trainer.devices 1": trainer.world_size > 1,
            "--data.num_workers 1": True,
        }
    else:
        height, width = data.crop_size
        what = f"a step of {data.batch_size} crops of {height}x{width} (data.batch_size, data.crop_size)"
        part = data.batch_size // 2 if data.batch_size % 2 == 0 else 1
        steps = trainer.accumulate_grad_batches * data.batch_size // part
        helps = {
            f"--data.batch_size {part} --trainer.accumulate_grad_batches {steps}": data.batch_size > 1,
            "--config experiments/options/gradient_checkpointing.yaml": not getattr(
                task.network, "checkpoint_stages", True
            ),
            **to_bf16,
            f'--data.crop_size "[{height // 2}, {width // 2}]"': True,
            "--model.network hrnetv2_w18": True,
        }
    switches = [switch for switch, is_left in helps.items() if is_left][:3]
    return f"out of memory in {what}, {peak}; what would help: {'; '.join(switches)}"
