"""Provenance of scores: weights, data and protocol."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import TrainerFn

import hrseg
from hrseg.inference.backend import network_name, runs_on
from hrseg.inference.exported import ExportedNetwork
from hrseg.task import SegmentationTask


def provenance(trainer: Trainer, task: SegmentationTask, stage: str, folder: Path) -> dict[str, Any]:
    """Describes a validation or test that has just ended.

    Args:
        trainer: The trainer.
        task: The task that was scored.
        stage: "val" or "test".
        folder: The run's folder.

    Returns:
        "data", "split", "network", "checkpoint" (relative to `folder` if inside it; None for weights from elsewhere),
        "weights" (the name or file of those; an exported file), "step" and "epoch" (optimiser steps done, and the epoch
        they ended in, from 0), "protocol", "absent_classes", "runs_on" and "versions".
    """
    is_training = trainer.state.fn == TrainerFn.FITTING
    checkpoint = None if is_training else trainer.ckpt_path
    step, epoch = trainer.global_step, trainer.current_epoch
    if checkpoint or not step:
        step, epoch = task.restored
    return {
        "data": task.labels.name,
        "split": getattr(getattr(trainer, "datamodule", None), f"{stage}_split", stage),
        "network": network_name(task.network),
        "checkpoint": _relative(Path(checkpoint), folder) if checkpoint else None,
        "weights": None if checkpoint or step else _weights(task),
        "step": step,
        "epoch": epoch,
        "protocol": asdict(task.val_protocol if stage == "val" else task.test_protocol),
        "absent_classes": task.metrics.absent,
        "runs_on": runs_on(task.network, trainer.strategy.root_device.type, str(trainer.precision)),
        "versions": {
            "hrseg": hrseg.__version__,
            "torch": str(torch.__version__),  # a plain string for checkpoints
            "pytorch-lightning": version("pytorch-lightning"),
        },
    }


def protocol_in_words(protocol: Mapping[str, Any]) -> str:
    """Describes a protocol, given as a dict, in a few words.

    >>> protocol_in_words({"window": (512, 1024), "scales": (0.5, 1.0), "flip": True})
    'windows of 512x1024, scales 0.5 1, mirrored too'
    """
    window, scales = protocol["window"], protocol["scales"]
    parts = ["whole images" if window is None else f"windows of {window[0]}x{window[1]}"]
    if tuple(scales) != (1.0,):
        parts.append(f"scales {' '.join(f'{scale:g}' for scale in scales)}")
    return ", ".join([*parts, "mirrored too"] if protocol["flip"] else parts)


def _weights(task: SegmentationTask) -> str | None:
    return str(task.network.path) if isinstance(task.network, ExportedNetwork) else task.weights


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.absolute(), folder.absolute()
    return Path(os.path.relpath(path, folder)).as_posix() if path.is_relative_to(folder) else path.as_posix()
