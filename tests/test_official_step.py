"""Three steps of training equal the official ones, written out: loss, gradients, weight decay, momentum, schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from hrseg.data.camvid import CamVidDataModule
from hrseg.losses import CrossEntropyLoss, OhemCrossEntropyLoss, SegmentationLoss
from hrseg.task import SegmentationTask
from tests.references.hrnet_plain import enlarge, hrnet_plain

STEPS = 3
LR, MOMENTUM, DECAY, POWER = 0.01, 0.9, 5e-4, 0.9
WEIGHTS = torch.linspace(0.8, 1.2, 11, dtype=torch.float64)
MEAN, STD = (torch.tensor(v).double() for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # single precision


class Recorder(Callback):
    """Keeps what went into each step and what came out."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append((batch["image"].clone(), batch["target"].clone()))
        self.losses.append(outputs["loss"].item())


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The weighted mean over the valid pixels."""
    valid = target != 255
    picked = logits.log_softmax(1).permute(0, 2, 3, 1)[valid].gather(1, target[valid].long()[:, None])[:, 0]
    weights = WEIGHTS[target[valid].long()]
    return -(weights * picked).sum() / weights.sum()


def ohem(logits: Tensor, target: Tensor, threshold: float = 0.9, min_kept: int = 500) -> Tensor:
    """The mean of the weighted losses of the hard pixels."""
    valid = target != 255
    picked = logits.log_softmax(1).permute(0, 2, 3, 1)[valid].gather(1, target[valid].long()[:, None])[:, 0]
    probability = picked.detach().exp()
    limit = max(probability.sort().values[min(min_kept, len(probability) - 1)].item(), threshold)
    hard = probability < limit
    return -(WEIGHTS[target[valid].long()] * picked)[hard].mean()


@pytest.mark.parametrize(
    ("loss", "official"),
    [
        (CrossEntropyLoss(WEIGHTS.tolist()), cross_entropy),
        (OhemCrossEntropyLoss(0.1, 500, WEIGHTS.tolist()), lambda x, y: ohem(x, y, 0.1)),
    ],
    ids=["cross entropy", "OHEM"],
)
def test_three_steps(loss: SegmentationLoss, official: Any, camvid_root: Path) -> None:
    torch.manual_seed(0)
    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(40, 56), num_workers=0)
    task = SegmentationTask("hrnetv2_w18_small_v1", data.labels, network_args={"init": "kaiming"}, loss=loss)
    loss.class_weights = WEIGHTS.clone()  # not rounded to single precision
    parameters = {
        name: parameter.detach().double().clone().requires_grad_()
        for name, parameter in task.network.named_parameters()
    }
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        precision="64-true",
        max_steps=STEPS,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[recorder],
    )
    trainer.fit(task, data)

    velocity: dict[str, Tensor] = {}
    rate = LR
    for step, (images, target) in enumerate(recorder.batches):
        pixels = (images.double() / 255 - MEAN.view(1, 3, 1, 1)) / STD.view(1, 3, 1, 1)
        _, logits = hrnet_plain(pixels, parameters, "bilinear", False, batch_statistics=True)
        value = official(enlarge(logits, tuple(target.shape[-2:]), "bilinear", False), target)
        assert recorder.losses[step] == pytest.approx(value.item(), rel=1e-10)
        gradients = torch.autograd.grad(value, list(parameters.values()))
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            change = gradient + DECAY * parameter.detach()  # of every parameter, norms and biases too
            velocity[name] = change if name not in velocity else MOMENTUM * velocity[name] + change
            parameter.data -= rate * velocity[name]
        rate = LR * (1 - step / STEPS) ** POWER  # written after the step with this step's number
    for name, parameter in task.network.named_parameters():
        torch.testing.assert_close(parameter.detach(), parameters[name].detach(), rtol=0, atol=1e-10)
