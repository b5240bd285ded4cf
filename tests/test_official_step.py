"""Three steps of training equal the official ones, written out: loss, gradients, weight decay, momentum, schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.losses import CrossEntropyLoss, OhemCrossEntropyLoss, SegmentationLoss, WeightedOutputsLoss
from hrseg.models import VARIANTS, HRNetV2
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


class WithAuxiliaryOutput(HRNetV2):
    """HRNetV2 with a second output from its finest map, enlarged with aligned corners as in HRNet + OCR."""

    def __init__(self) -> None:
        super().__init__(VARIANTS["w18_small_v1"], len(WEIGHTS), align_corners=True, init="kaiming")
        self.auxiliary = nn.Conv2d(self.widths[0], len(WEIGHTS), 1)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.features(images)
        return {"out": self.last_layer(maps), "aux": self.auxiliary(maps[0])}


def pixel_losses(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the valid pixels: unweighted loss, weight, and the probability of their class."""
    valid = target != 255
    picked = logits.log_softmax(1).permute(0, 2, 3, 1)[valid].gather(1, target[valid].long()[:, None])[:, 0]
    return -picked, WEIGHTS[target[valid].long()], picked.detach().exp()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The weighted mean over the valid pixels."""
    losses, weights, _ = pixel_losses(logits, target)
    return (weights * losses).sum() / weights.sum()


def ohem(logits: Tensor, target: Tensor) -> Tensor:
    """The mean of the weighted losses of the hard pixels."""
    losses, weights, probability = pixel_losses(logits, target)
    limit = max(probability.sort().values[min(500, len(probability) - 1)].item(), 0.1)
    return (weights * losses)[probability < limit].mean()


def sum_over_all_pixels(logits: Tensor, target: Tensor) -> Tensor:
    """The weighted losses over the number of pixels, ignored ones included: the second term beside OHEM."""
    losses, weights, _ = pixel_losses(logits, target)
    return (weights * losses).sum() / target.numel()


CASES = {
    "cross entropy": (CrossEntropyLoss(WEIGHTS.tolist()), cross_entropy, None),
    "OHEM": (OhemCrossEntropyLoss(0.1, 500, WEIGHTS.tolist()), ohem, None),
    "cross entropy and 0.4 auxiliary": (
        WeightedOutputsLoss(
            {"out": CrossEntropyLoss(WEIGHTS.tolist()), "aux": CrossEntropyLoss(WEIGHTS.tolist())}, {"aux": 0.4}
        ),
        cross_entropy,
        cross_entropy,
    ),
    "OHEM and 0.4 auxiliary": (
        WeightedOutputsLoss(
            {
                "out": OhemCrossEntropyLoss(0.1, 500, WEIGHTS.tolist()),
                "aux": CrossEntropyLoss(WEIGHTS.tolist(), divide_by="pixels"),
            },
            {"aux": 0.4},
        ),
        ohem,
        sum_over_all_pixels,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_three_steps(case: str, camvid_root: Path) -> None:
    criterion, official, auxiliary = CASES[case]
    torch.manual_seed(0)
    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(40, 56), num_workers=0)
    network: Any = {"network": "hrnetv2_w18_small_v1", "network_args": {"init": "kaiming"}}
    if auxiliary is not None:
        network = {"network": WithAuxiliaryOutput()}
    task = SegmentationTask(**network, labels=data.labels, loss=criterion)
    for loss in criterion.modules():
        if isinstance(loss, SegmentationLoss):
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
        corners, size = auxiliary is not None, tuple(target.shape[-2:])
        maps, logits = hrnet_plain(pixels, parameters, "bilinear", corners, batch_statistics=True)
        value = official(enlarge(logits, size, "bilinear", corners), target)
        if auxiliary is not None:
            second = F.conv2d(maps[0], parameters["auxiliary.weight"], parameters["auxiliary.bias"])
            value = value + 0.4 * auxiliary(enlarge(second, size, "bilinear", corners), target)
        assert recorder.losses[step] == pytest.approx(value.item(), rel=1e-10)
        gradients = torch.autograd.grad(value, list(parameters.values()))
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            change = gradient + DECAY * parameter.detach()  # of every parameter, norms and biases too
            velocity[name] = change if name not in velocity else MOMENTUM * velocity[name] + change
            parameter.data -= rate * velocity[name]
        rate = LR * (1 - step / STEPS) ** POWER  # written after the step with this step's number
    for name, parameter in task.network.named_parameters():
        torch.testing.assert_close(parameter.detach(), parameters[name].detach(), rtol=0, atol=1e-10)
