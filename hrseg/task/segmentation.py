"""`SegmentationTask`: the training, validation, test and prediction step, and the optimiser."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities.enums import GradClipAlgorithmType
from torch import Tensor, distributed, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric

from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError
from hrseg.inference import IMAGENET_MEAN, IMAGENET_STD, Protocol, named_protocol, normalize, score_images
from hrseg.inference.checkpoint import describe_network
from hrseg.inference.exported import ExportedNetwork
from hrseg.losses import Criterion, CrossEntropyLoss, LossReduction, SegmentationLoss, WeightedOutputsLoss
from hrseg.metrics import SegmentationMetrics
from hrseg.metrics.segmentation import MEANS
from hrseg.models import Network, create_model, optimize_for_cpu, outputs_of
from hrseg.optim import Schedule, create_optimizer, create_schedule, freeze_layers, parameter_groups
from hrseg.task.batch_norm import check_single_values, single_values_as_config_error
from hrseg.task.checkpoint import task_description, task_of_checkpoint
from hrseg.task.checks import (
    check_clipping,
    check_exported,
    check_logits,
    check_loss,
    check_monitors,
    check_named_network,
    check_network,
    check_settings,
    check_trainer,
    checked_labels,
    require_batch,
)
from hrseg.utils.construct import RecordsArguments
from hrseg.utils.malloc import keep_freed_memory
from hrseg.utils.upsample import upsample, upsampled_argmax

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger(__name__)


class SegmentationTask(LightningModule, RecordsArguments):
    """Trains and scores a semantic segmentation network.

    Args:
        network: Name of a network (`hrseg models` lists them), or a module that maps images (B, 3, H, W) to logits
            (B, K, H, W), or to a mapping with them under "out", like those of torchvision.
        labels: The data set's classes; the command links it from the data module.
        network_args: Further constructor parameters of a network given by name.
        weights: Initial weights of a network given by name: "imagenet", another name that `hrseg models` shows, a file
            of any code base, or None for a random initialisation.
        reinit_head: Whether to load the backbone's weights only, for other classes than theirs.
        checkpoint_stages: Stages (1, 2, 3, 4) of a network given by name with activation checkpointing: less memory,
            more time, the same result.
        loss: Loss of the main output: one of `hrseg.losses`, or a module of (logits, target) such as
            `torch.nn.CrossEntropyLoss`; or a `WeightedOutputsLoss` of several outputs. None is cross entropy on each
            output that the network is trained with, weighted as published.
        optimizer: Builds the optimiser from parameter groups; None is the papers' SGD (lr 0.01, momentum 0.9, weight
            decay 5e-4).
        loss_reduction: How the loss of a step is averaged over ranks. "per_rank": each rank takes the mean over the
            pixels of its batch, and the gradients are averaged, as in the code of HRNet, OCR and NVIDIA and in
            mmsegmentation; the more pixels of a rank's batch are ignored, the more each of the others counts. "global":
            the mean over the pixels of all ranks, as on one rank with the whole batch; for cross entropy and OHEM,
            whose `min_kept` still applies per rank. On one rank both are the same.
        schedule: Learning-rate schedule, stepped with the optimiser: "poly" or "cosine", to zero; "step", divided by 10
            after 30, 60 and 90 % of the steps; or a function that builds a scheduler for an optimiser, such as a class
            of torch. A `ReduceLROnPlateau` monitors its `monitor`, by default val/miou in mode "max" and val/loss in
            mode "min".
        power: Power of the poly schedule; 0 keeps the learning rate constant.
        warmup_steps: Optimiser steps of linear warm-up; a tenth of all steps in a training that is no longer than it.
        head_lr_factor: Learning rate of the head relative to the backbone's.
        lr_factors: Relative learning rates by pattern, such as {"stage4": 0.1, "*.bn1": 2.0}: the name of a parameter
            or of a module that contains it, "head", or "backbone" (all but the head). The last match wins.
        freeze: Patterns, as in `lr_factors`, of layers that are not trained, such as ["backbone"]. Their batch norm
            keeps its statistics.
        decay_norm_and_bias: Whether weight decay applies to normalisation layers and biases, as in the HRNet papers.
        val_protocol: How images are scored in validation: "whole", "slide", "cityscapes", "pascal_context", "lip", or
            another `Protocol`.
        test_protocol: How images are scored in test and prediction.
        crop_size: (height, width) of the training crops, the windows of the protocols "slide" and "pascal_context"; the
            command links it from the data module.
        input_size: (height, width) to which the data module resizes every image, if any; the command links it, too.
        absent_classes: Treatment of classes in neither labels nor predictions by the mean IoU: "skip" leaves them out,
            as the Cityscapes evaluator does; "zero" counts them as 0, as the official HRNet code does.
        mean: Mean of the channels, for values from 0 to 1, in the network's `channel_order`. BGR weights of openseg and
            HRFormer were trained with the RGB numbers in this order, unswapped.
        std: Standard deviation of the channels, in the range and order of `mean`.
        channels_last: Whether to use the channels-last memory format, which is faster on CPUs and tensor cores.
        compile: Whether to use `torch.compile`.

    Raises:
        ConfigError: Settings contradict each other.
    """

    mean: Tensor  # (1, 3, 1, 1), of values from 0 to 1
    std: Tensor

    def __init__(
        self,
        network: str | nn.Module = "hrnetv2_w48",
        labels: LabelTable | dict[str, Any] | None = None,
        network_args: dict[str, Any] | None = None,
        weights: str | None = None,
        reinit_head: bool = False,
        checkpoint_stages: list[int] | None = None,
        loss: Criterion | nn.Module | None = None,
        optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer] | None = None,
        loss_reduction: LossReduction = "per_rank",
        schedule: Schedule = "poly",
        power: float = 0.9,
        warmup_steps: int = 0,
        head_lr_factor: float = 1.0,
        lr_factors: dict[str, float] | None = None,
        freeze: list[str] | None = None,
        decay_norm_and_bias: bool = True,
        val_protocol: str | Protocol = "whole",
        test_protocol: str | Protocol = "whole",
        crop_size: tuple[int, int] | None = None,
        input_size: tuple[int, int] | None = None,
        absent_classes: Literal["skip", "zero"] = "skip",
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.labels = checked_labels(labels)
        protocols = {"val_protocol": val_protocol, "test_protocol": test_protocol}
        check_settings(optimizer, warmup_steps, protocols, mean, std)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if isinstance(network, str):
            parameters = dict(network_args or {})
            check_named_network(network, parameters, self.labels)
            if checkpoint_stages:
                parameters["checkpoint_stages"] = checkpoint_stages
            self.network: nn.Module = create_model(
                network, self.labels.num_classes, weights, reinit_head=reinit_head, **parameters
            )
        elif network_args or weights or checkpoint_stages:
            raise ConfigError(
                "network_args, weights and checkpoint_stages belong to a network given by name; leave them out "
                f"(null overrides a recipe's), and set up the {type(network).__name__} itself"
            )
        else:
            self.network = network
        check_network(self.network, self.labels)
        if not self.network.training:
            _log.warning(
                "the network was in evaluation mode and is set to training mode; freeze layers that should not train"
            )
            self.network.train()
        self.network.to(memory_format=self.memory_format)
        self._head_names: Sequence[str] = getattr(self.network, "head_names", ())
        self._frozen = freeze_layers(self.network, freeze, self._head_names) if freeze else []
        self.loss: Criterion
        if loss is None:
            output_weights = getattr(self.network, "output_weights", {"out": 1.0})
            self.loss = WeightedOutputsLoss({name: CrossEntropyLoss() for name in output_weights}, output_weights)
        elif isinstance(loss, Criterion) and not isinstance(loss, SegmentationLoss):
            self.loss = loss
        else:
            self.loss = WeightedOutputsLoss({"out": loss})
        check_loss(self.loss, self.labels)
        self.align_corners: bool = getattr(self.network, "align_corners", False)
        self.loss.bind(self.labels.ignore_index, self.align_corners, loss_reduction)
        self.make_optimizer = optimizer or partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.val_protocol, self.test_protocol = (
            named_protocol(protocol, crop_size) if isinstance(protocol, str) else protocol
            for protocol in protocols.values()
        )
        self.crop_size = crop_size
        self.input_size = input_size
        self.schedule = schedule
        self.power = power
        self.warmup_steps = warmup_steps
        self.head_lr_factor = head_lr_factor
        self.lr_factors = lr_factors
        self.decay_norm_and_bias = decay_norm_and_bias
        self.compile_network = compile
        self.weights = weights
        self.restored = (0, 0)  # optimiser steps and epoch of the checkpoint that was loaded
        self.lr: float | None = None  # overrides the optimiser's; Lightning's Tuner sets it
        self.seed: int | None = None  # of dropout; None before the training starts
        self.temperature = 1.0  # of probabilities; `hrseg calibrate` fits it to the weights
        if isinstance(self.network, ExportedNetwork):
            check_exported(self.network, self.labels, mean, std, input_size)
            self.temperature = self.network.description.temperature
        self.reduce_probabilities: Callable[[Tensor], Any] | None = None  # see `predict_step`
        # gets the fused logits (1, K, H, W) and the target (1, H, W) of each image that is scored
        self.observe_logits: Callable[[Tensor, Tensor], None] | None = None
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.metrics = SegmentationMetrics(
            self.labels.num_classes, self.labels.ignore_index, absent_classes, self.labels.categories
        )
        # over the images of all ranks; Lightning's mean is wrong where ranks have different numbers of images, as it
        # averages whole numbers (pytorch-lightning 2.6)
        self.mean_loss = MeanMetric(nan_strategy="disable")

    # ------------------------------------------------------------------------------------------------- network

    def setup(self, stage: str) -> None:
        """Checks trainer and data; on a CPU, optimises the network for it; with `compile`, compiles it once."""
        check_trainer(self.trainer, self.labels)
        if isinstance(self.network, Network) and self.trainer.strategy.root_device.type == "cpu":
            optimize_for_cpu(self.network)
        if stage == "fit" and type(self) is SegmentationTask:  # subclasses may log other values
            scores = [f"val/{name}" for name in MEANS if self.labels.categories or name != "category_miou"]
            losses = ["train/loss", "val/loss"] if self.val_protocol.is_plain else ["train/loss"]
            check_monitors(self.trainer, [*losses, *scores])
        if self.compile_network and "outputs" not in vars(self):
            self.outputs = torch.compile(self.outputs)  # type: ignore[method-assign]

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; frozen layers stay in evaluation mode."""
        super().train(mode)
        self._freeze_statistics()
        return self

    def on_train_start(self) -> None:
        """Sets frozen layers to evaluation mode; if set earlier, Lightning would warn."""
        self._freeze_statistics()

    def _freeze_statistics(self) -> None:
        for name in self._frozen:  # by name: Lightning replaces batch norms by synchronised ones
            self.network.get_submodule(name).eval()

    def on_fit_start(self) -> None:
        """Tunes malloc on CPUs, records the seed, and checks that batches of one image can be trained on.

        A temperature belongs to the weights that it was fitted to, and is dropped.
        """
        self.temperature = 1.0
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.seed is None:
            self.seed = torch.initial_seed()
        is_ours = type(self).training_step is SegmentationTask.training_step
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
        if is_ours and self.crop_size is not None and getattr(data, "batch_size", None) == 1:
            self.train()
            check_single_values(self.network, self._prepare(torch.zeros(1, 3, *self.crop_size, device=self.device)))
            self.network.train()  # see `on_train_start`

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds each step by run, step and rank, so that a restarted training repeats it."""
        if self.seed is None:  # under Lightning's Tuner, which calls no `on_fit_start`
            self.seed = torch.initial_seed()
        what = (self.seed, self.trainer.global_step, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(what).generate_state(1, np.uint64)[0]))

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Logits at the network's own size: "out" (B, K, h, w), and "aux" if it has an auxiliary head."""
        outputs = outputs_of(self.network, images)
        check_logits(outputs, images, self.labels.num_classes, self.network)
        return outputs

    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Maps uint8 images to logits.

        Args:
            images: (B, 3, H, W) uint8 RGB.
            size: Height and width of the logits; None is the images' own.

        Returns:
            (B, K, height, width).
        """
        logits = self.outputs(self._prepare(images))["out"]
        return upsample(logits, size or images.shape[-2:], self.align_corners)

    def _prepare(self, images: Tensor) -> Tensor:
        prepared = normalize(images, self.mean, self.std, getattr(self.network, "channel_order", "rgb"))
        return prepared.contiguous(memory_format=self.memory_format)

    # --------------------------------------------------------------------------------------------------- steps

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of one batch."""
        require_batch(batch, "image", "target")
        images = self._prepare(batch["image"])
        with single_values_as_config_error(images):
            outputs = self.outputs(images)
        loss: Tensor = self.loss(outputs, batch["target"])
        self.log("train/loss", self._mean_over_ranks(loss), prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def _mean_over_ranks(self, loss: Tensor) -> Tensor:
        """Mean over all ranks, without the host sync of Lightning's `sync_dist`."""
        mean = loss.detach().clone()
        if distributed.is_initialized():
            distributed.all_reduce(mean)
            mean /= distributed.get_world_size()
        return mean

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, list[Tensor]]:
        """Updates the metrics at the labels' own sizes; returns the predictions for callbacks."""
        return self._score(batch, self.val_protocol)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, list[Tensor]]:
        """Updates the metrics at the labels' own sizes; returns the predictions for callbacks."""
        return self._score(batch, self.test_protocol)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, list[Any]]:
        """Returns the train ids (H, W) uint8 of each image at its file's size, as "prediction".

        With `reduce_probabilities`, a function of an image's probabilities (K, H, W) float32, also its results, as
        "probabilities": those of a batch may take gigabytes.
        """
        require_batch(batch, "image", "size")
        predictions: dict[int, Tensor] = {}
        reduced: dict[int, Any] = {}
        sizes = [tuple(map(int, size)) for size in batch["size"]]
        is_resized = any(tuple(image.shape[-2:]) != size for image, size in zip(batch["image"], sizes, strict=True))
        upsampled = is_resized or self.reduce_probabilities is not None
        for index, outputs in self._scored_images(batch["image"], self.test_protocol, upsampled):
            scores = upsample(outputs["out"], sizes[index], self.align_corners) if upsampled else outputs["out"]
            (predictions[index],) = upsampled_argmax(scores, sizes[index], self.align_corners)
            if self.reduce_probabilities is not None:
                reduced[index] = self.reduce_probabilities(
                    self.test_protocol.probabilities(scores, self.temperature)[0]
                )
        results = {"prediction": predictions, "probabilities": reduced}
        return {name: [of[index] for index in range(len(batch["size"]))] for name, of in results.items() if of}

    def _score(self, batch: dict[str, Any], protocol: Protocol) -> dict[str, list[Tensor]]:
        """Updates the metrics image by image, as images and labels of a batch may differ in size."""
        require_batch(batch, "image", "target")
        predictions: dict[int, Tensor] = {}
        for index, outputs in self._scored_images(batch["image"], protocol):
            target = batch["target"][index][None]
            scores = upsample(outputs["out"], target.shape[-2:], self.align_corners)
            (predictions[index],) = upsampled_argmax(scores, target.shape[-2:], self.align_corners)
            self.metrics.update(predictions[index][None], target)
            if self.observe_logits is not None:
                self.observe_logits(protocol.fused_logits(scores), target)
            if protocol.is_plain:
                self.mean_loss.update(self.loss({**outputs, "out": scores}, target))
        return {"prediction": [predictions[index] for index in range(len(batch["target"]))]}

    def _scored_images(
        self, images: Tensor | Sequence[Tensor], protocol: Protocol, upsampled: bool = True
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Yields index and outputs of each image, see `score_images`; images of equal size share a batch."""
        by_size: defaultdict[torch.Size, list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            by_size[image.shape].append(index)
        for indices in by_size.values():
            batch = images if isinstance(images, Tensor) else torch.stack([images[index] for index in indices])
            outputs = score_images(
                self.outputs,
                self._prepare(batch),
                protocol,
                align_corners=self.align_corners,
                flip_permutation=self.labels.flip_permutation(),
                black=(-self.mean / self.std)[0],
                upsampled=upsampled,
            )
            yield from zip(indices, outputs, strict=True)

    def on_validation_epoch_start(self) -> None:
        """Resets the metrics."""
        self.metrics.reset()
        self.mean_loss.reset()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of the epoch."""
        self._log_scores("val", self.val_protocol)

    def on_test_epoch_end(self) -> None:
        """Logs the scores of the epoch."""
        self._log_scores("test", self.test_protocol)

    def _log_scores(self, stage: str, protocol: Protocol) -> None:
        scores = self.metrics.compute()
        if not scores["images"]:
            return  # a subclass with scores of its own
        if protocol.is_plain:
            self.log(f"{stage}/loss", self.mean_loss.compute())
        scores = {name: value for name, value in scores.items() if name in MEANS}
        miou = scores.pop("miou")
        self.log(f"{stage}/miou", miou.float(), prog_bar=True)
        self.log_dict({f"{stage}/{name}": value.float() for name, value in scores.items()})

    # ----------------------------------------------------------------------------------------------- optimiser

    def configure_optimizers(self) -> Any:
        """Builds the optimiser, and the scheduler that is stepped with it."""
        groups = parameter_groups(
            self.network,
            head_lr_factor=self.head_lr_factor,
            decay_norm_and_bias=self.decay_norm_and_bias,
            head_names=self._head_names,
            lr_factors=self.lr_factors,
        )
        if not groups:
            raise ConfigError(f"nothing of {type(self.network).__name__} is trained: no parameter requires a gradient")
        if self.lr is not None:
            groups = [{**group, "lr": self.lr} for group in groups]
        optimizer = create_optimizer(self.make_optimizer, groups)
        if isinstance(optimizer, torch.optim.LBFGS) and self.memory_format == torch.channels_last:
            raise ConfigError("LBFGS takes gradients in contiguous memory only; give --model.channels_last false")
        check_clipping(self.trainer, optimizer)
        steps = self.trainer.estimated_stepping_batches
        schedule = create_schedule(optimizer, self.schedule, steps, self.power, self._warmup(steps))
        settings: dict[str, Any] = {"scheduler": schedule, "interval": "step"}
        if isinstance(schedule, ReduceLROnPlateau):  # stepped after each validation, whose scores it monitors
            by_mode = {"max": "val/miou", "min": "val/loss"}
            settings |= {"interval": "epoch", "frequency": self.trainer.check_val_every_n_epoch or 1}
            settings |= {"monitor": getattr(schedule, "monitor", by_mode[schedule.mode])}
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips gradients; under bf16-mixed with fused optimisers, too, which Lightning refuses."""
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:  # nothing to unscale
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _warmup(self, steps: float) -> int:
        """Steps of the warm-up: `warmup_steps`, or a tenth of all steps in a training that is too short for it."""
        if self.warmup_steps == 0 or self.warmup_steps < steps:
            return self.warmup_steps
        if self.trainer.is_global_zero:
            found = f"a warm-up of {self.warmup_steps} steps does not fit into a training of {steps:.0f}"
            _log.warning("%s; it is shortened to %d, a tenth", found, steps // 10)
        return int(steps // 10)

    # ---------------------------------------------------------------------------------------------- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what `Predictor.from_checkpoint` needs to rebuild the network, as plain values."""
        checkpoint["hrseg"] = {
            "network": describe_network(self.network),
            "task": task_description(self),
            "labels": self.labels.to_dict(),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "protocol": asdict(self.test_protocol),
            "crop_size": self.crop_size,
            "input_size": self.input_size,
            "seed": self.seed,
            "temperature": self.temperature,
        }

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's reads other keys
        cls,
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        *,
        trust: bool = False,
        **arguments: Any,
    ) -> Self:
        """Rebuilds the task of a checkpoint of `hrseg fit` or `hrseg.fit`, with its weights.

        Args:
            checkpoint_path: `best.ckpt` or `last.ckpt`.
            map_location: The device to move it to; None is the CPU.
            trust: Whether to allow classes of any package, which runs their code; otherwise only those of hrseg,
                torch.nn, torch.optim and segmentation_models_pytorch.
            arguments: Constructor arguments that override the checkpoint's.

        Raises:
            ConfigError: A class is of another package, and the file is not trusted.
            WeightsError: The file is not of hrseg, or lacks an argument that is not given here either.
        """
        kind = None if cls is SegmentationTask else cls
        task: Self = task_of_checkpoint(checkpoint_path, SegmentationTask, kind, trust, arguments)  # type: ignore[assignment]
        return task if map_location is None else task.to(map_location)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores seed and temperature, and records how long the weights were trained."""
        self.restored = (checkpoint.get("global_step", 0), checkpoint.get("epoch", 0))
        own = checkpoint.get("hrseg", {})
        self.seed = own.get("seed")
        self.temperature = own.get("temperature", 1.0)
