"""`SegmentationDataModule`, the base class of the data modules."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import albumentations as A
import cv2
import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import Sampler, SequentialSampler

from hrseg.data.centroids import find_centroids
from hrseg.data.checks import check_ranges, check_transforms
from hrseg.data.dataset import Sample, SegmentationDataset
from hrseg.data.labels import LabelTable
from hrseg.data.loader import SegmentationLoader, collate, start_worker
from hrseg.data.samplers import EpochSampler, EvalSampler
from hrseg.data.transforms import HorizontalFlip, RandomScaleCrop
from hrseg.errors import ConfigError, DataFileError, DataNotFoundError, UnknownNameError
from hrseg.utils import signals
from hrseg.utils.construct import RecordsArguments
from hrseg.utils.parallel import CONTEXT, usable_cores
from hrseg.utils.paths import expanded

_log = logging.getLogger(__name__)


class SegmentationDataModule(LightningDataModule, RecordsArguments, ABC):
    """Base class of the data modules: dataloaders for training, validation, test and prediction.

    A subclass defines `labels`, `splits`, `layout` and `origin`, and implements `find_samples`; for a benchmark with an
    evaluator of its own also `evaluator` and `evaluate_files`. Training takes random crops and flips, everything else
    whole images. Images stay uint8 up to the device.

    Args:
        root: The data set's folder.
        batch_size: Training images per rank.
        crop_size: (height, width) of training crops in pixels, each at least 32.
        base_size: Long side of the images at scale 1, in pixels; None keeps each image's own.
        scale_range: Smallest and largest random scale of training images.
        scale_step: Step between the scales, each equally likely.
        aspect_range: Smallest and largest random factor on the aspect ratio (width / height) of training images;
            openseg trains with 0.9 to 1.1, the HRNet papers with 1.
        flip_probability: Probability of a horizontal flip.
        color_jitter: Largest change of brightness, contrast and saturation, 0 to 1; a quarter of it for the hue.
        class_uniform: Share of training crops that are centred on a region of a class, with each class equally often,
            so that rare ones are seen; 0.5 in NVIDIA's trainings. Scans the labels once.
        transforms: More albumentations transforms for training, after crop and flip.
        eval_batch_size: Images per rank in validation, test and prediction; their sizes may differ.
        train_split: Split to train on.
        extra_split: Split mixed into the training, such as coarsely labelled images; None for none.
        extra_ratio: Its samples per sample of `train_split` in an epoch, drawn anew each epoch.
        val_split: Split to validate on.
        test_split: Split scored by `test`.
        predict_split: Split segmented by `predict`, without its labels; None for test, or `val_split` if there is none.
        num_workers: Dataloader workers per rank; None for one per core of the rank's share, 2 to 8.
        seed: Seed of order and augmentation, which do not depend on the numbers of workers and ranks. None takes that
            of `seed_everything`; a resumed run keeps its own.
        on_error: Whether an unusable file stops the run or is skipped.
        input_size: (height, width) to which every image is first resized, ignoring its aspect ratio; labels are scored
            at their own size. None leaves images as they are.

    Raises:
        ConfigError: A value is out of range, or the subclass is incomplete.
        UnknownNameError: There is no such split.
    """

    timeout_minutes: float = 30.0  # of a dataloader worker per batch; set by `hrseg --timeout_minutes`
    labels: LabelTable
    splits: ClassVar[tuple[str, ...]]
    unlabelled_splits: ClassVar[tuple[str, ...]] = ()
    layout: ClassVar[str]  # the files expected under the root, for messages
    origin: ClassVar[str]  # how to get the data, for messages
    evaluator: ClassVar[str | None] = None  # name of the benchmark's own evaluator, which `evaluate_files` runs

    def __init__(
        self,
        root: str | Path,
        batch_size: int,
        crop_size: tuple[int, int],
        base_size: int | None = None,
        scale_range: tuple[float, float] = (0.5, 2.1),
        scale_step: float = 0.1,
        aspect_range: tuple[float, float] = (1.0, 1.0),
        flip_probability: float = 0.5,
        color_jitter: float = 0.0,
        class_uniform: float = 0.0,
        transforms: list[A.BasicTransform | A.BaseCompose] | None = None,
        eval_batch_size: int = 1,
        train_split: str = "train",
        extra_split: str | None = None,
        extra_ratio: float = 1.0,
        val_split: str = "val",
        test_split: str = "val",
        predict_split: str | None = None,
        num_workers: int | None = None,
        seed: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self._check_class()
        self.root = expanded(root)
        self.batch_size = batch_size
        self.crop_size = (crop_size[0], crop_size[1])
        self.base_size = base_size
        self.scale_range = (scale_range[0], scale_range[1])
        self.scale_step = scale_step
        self.aspect_range = (aspect_range[0], aspect_range[1])
        self.flip_probability = flip_probability
        self.color_jitter = color_jitter
        self.class_uniform = class_uniform
        self.transforms = transforms or []
        self.eval_batch_size = eval_batch_size
        self.train_split = train_split
        self.extra_split = extra_split
        self.extra_ratio = extra_ratio
        self.val_split = val_split
        self.test_split = test_split
        self.predict_split = predict_split or ("test" if "test" in self.splits else val_split)
        self.num_workers = num_workers
        self.seed = seed
        self._seed_of_run = seed
        self.on_error = on_error
        self.input_size = None if input_size is None else (input_size[0], input_size[1])
        self._samples: dict[str, list[Sample]] = {}
        self._datasets: list[SegmentationDataset] = []
        self._check_settings()

    @property
    def num_classes(self) -> int:
        """Number of classes K, without ignored ones."""
        return self.labels.num_classes

    @property
    def ignore_index(self) -> int:
        """Value of ignored pixels in targets."""
        return self.labels.ignore_index

    @abstractmethod
    def find_samples(self, split: str) -> list[Sample]:
        """Lists the samples of a split, in the same order on every machine.

        Args:
            split: One of `splits`.

        Returns:
            A sample per image, with the path where its label is expected, whether or not it exists.
        """

    def submission_name(self, name: str) -> str:
        """The path of a sample's prediction in the archive for the benchmark server."""
        return f"{name}.png"

    def evaluate_files(self, pairs: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
        """Scores label files with the benchmark's own evaluator, where `evaluator` names one.

        `test` calls it on rank 0, writes the result to `test/EVALUATOR.json` and compares its mIoU with ours.

        Args:
            pairs: Prediction and ground truth of each image. Predictions are 8-bit PNGs of label ids.

        Returns:
            What can be written as JSON: at least "miou", a fraction.
        """
        raise NotImplementedError

    def stray_labels(self) -> list[Path]:
        """Label files without an image, for `hrseg verify`; empty if the data set cannot tell."""
        return []

    def check_counts(self, pixels_per_label_id: np.ndarray) -> list[str]:
        """Findings of `hrseg verify` about the data set as a whole, such as labels in another numbering.

        Args:
            pixels_per_label_id: (256,) int64, over all labels; ignored pixels are counted under the first void id.
        """
        return []

    def augmentation(self) -> A.Compose:
        """The augmentation of training samples: random scale and crop, flip, colour jitter and `transforms`.

        With `input_size` the flip comes first, then the resize, so that crops are padded on the right, mirrored or not.

        Source:
            HRNet-Semantic-Segmentation: lib/datasets/base_dataset.py, gen_sample, flips crops;
            lib/datasets/lip.py flips, then resizes, and gen_sample does not flip again.
        """
        crop = RandomScaleCrop(
            self.crop_size, self.base_size, self.scale_range, self.scale_step, self.aspect_range, self.ignore_index
        )
        flip = HorizontalFlip(self.labels.flip_pairs, p=self.flip_probability)
        steps: list[A.BasicTransform | A.BaseCompose] = [crop, flip]
        if self.input_size is not None:
            steps = [flip, A.Resize(*self.input_size, mask_interpolation=cv2.INTER_NEAREST), crop]
        if self.color_jitter:
            strength = self.color_jitter
            steps.append(A.ColorJitter(strength, strength, strength, strength / 4, p=1.0))
        return A.Compose([*steps, *self.transforms])

    def require_root(self) -> None:
        """Raises a `DataNotFoundError` if the data set's folder is missing."""
        if not os.path.isdir(self.root):
            raise DataNotFoundError(
                f"no folder {self.root.absolute()}; expected {self.layout} in it. {self.origin}; then set data.root"
            )

    def prepare_data(self) -> None:
        """Scans the labels for `class_uniform`, on one rank of each machine."""
        if self.class_uniform and self.trainer is not None and self.trainer.state.fn == "fit":
            self.setup("fit")
            find_centroids(self._training_samples, self.labels, self.root)

    def setup(self, stage: str) -> None:
        """Lists the samples of a stage and checks that their files exist.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            DataNotFoundError: The root, all images of a split, or a label are missing.
            DataFileError: Two images of a split have the same name.
            ConfigError: A split has fewer images than ranks, or the training split fewer than a step takes.
        """
        self.require_root()
        if stage == "fit":
            self._seed_of_run = self.seed  # not the one of an earlier training
        needed = {
            "fit": (*self._training_splits, self.val_split),
            "validate": (self.val_split,),
            "test": (self.test_split,),
            "predict": (self.predict_split,),
        }
        for split in needed[stage]:
            if split not in self._samples:
                self._samples[split] = self._found(split)
            if stage != "predict":
                self._require_labels(split)
        if stage == "fit" and len(self._samples[self.train_split]) < self.batch_size * self._world_size:
            raise ConfigError(
                f"split {self.train_split} has {len(self._samples[self.train_split])} images, fewer than a step takes "
                f"(batch_size {self.batch_size} x {self._world_size} ranks); lower data.batch_size"
            )

    def train_dataloader(self) -> SegmentationLoader:
        """Shuffled, augmented crops; the last incomplete batch is dropped."""
        samples = self._training_samples
        seed = self._settled_seed()
        dataset = SegmentationDataset(samples, self.labels, self.augmentation(), seed, self.on_error)
        main = len(self._samples[self.train_split])
        extra = len(samples) - main
        sampler = EpochSampler(
            dataset,
            seed,
            self._rank,
            self._world_size,
            extra,
            min(extra, round(self.extra_ratio * main)),
            find_centroids(samples, self.labels, self.root) if self.class_uniform else (),
            self.class_uniform,
            self._seen,
        )
        return self._loader(dataset, sampler, self.batch_size, drop_last=True)

    def val_dataloader(self) -> SegmentationLoader:
        """Whole images of `val_split`."""
        return self._eval_loader(self._samples[self.val_split])

    def test_dataloader(self) -> SegmentationLoader:
        """Whole images of `test_split`."""
        return self._eval_loader(self._samples[self.test_split])

    def predict_dataloader(self) -> SegmentationLoader:
        """Whole images of `predict_split`, without labels."""
        return self._eval_loader([sample._replace(label=None) for sample in self._samples[self.predict_split]])

    def teardown(self, stage: str) -> None:
        """Logs how many files were skipped."""
        for dataset in self._datasets:
            if number := int(dataset.skipped.sum()):
                _log.warning("skipped %d of %d files of %s", number, len(dataset), self.labels.name)
        self._datasets.clear()

    def on_exception(self, exception: BaseException) -> None:
        """Ends the workers of all dataloaders; Python would wait at exit for those that hang."""
        run = self.trainer
        if run is not None:
            for loader in (run.train_dataloader, run.val_dataloaders, run.test_dataloaders, run.predict_dataloaders):
                if isinstance(loader, SegmentationLoader):
                    loader.end_workers()

    def state_dict(self) -> dict[str, Any]:
        """The seed of order and augmentation."""
        return {"seed": self._seed_of_run}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the checkpoint's seed, unless one was given."""
        seed = state_dict.get("seed") if isinstance(state_dict, dict) else None
        if self.seed is None and isinstance(seed, int) and seed >= 0:
            self._seed_of_run = seed

    def _settled_seed(self) -> int:
        """The given seed, the resumed checkpoint's, or rank 0's."""
        if self._seed_of_run is None:
            # not `torch.initial_seed` alone: the task reseeds at every step, so it is right in a first training only
            seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))
            self._seed_of_run = self.trainer.strategy.broadcast(seed) if self.trainer is not None else seed
        return self._seed_of_run

    def _eval_loader(self, samples: list[Sample]) -> SegmentationLoader:
        dataset = SegmentationDataset(samples, self.labels, on_error=self.on_error, input_size=self.input_size)
        return self._loader(dataset, EvalSampler(dataset, self._rank, self._world_size), self.eval_batch_size)

    def _loader(
        self, dataset: SegmentationDataset, sampler: Sampler[Any], batch_size: int, drop_last: bool = False
    ) -> SegmentationLoader:
        self._datasets.append(dataset)
        if self.trainer is not None and self.trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            sampler = SequentialSampler(dataset)  # as Lightning would, with a warning
        workers = self.num_workers if self.num_workers is not None else self._sensible_workers()
        return SegmentationLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            drop_last=drop_last,
            timeout=60 * self.timeout_minutes if workers > 0 else 0,
            multiprocessing_context=CONTEXT if workers > 0 else None,
            worker_init_fn=partial(start_worker, signals.watched),
            persistent_workers=workers > 0,
        )

    def _sensible_workers(self) -> int:
        return min(8, max(2, usable_cores() // (self.trainer.num_devices if self.trainer is not None else 1)))

    @property
    def _training_splits(self) -> tuple[str, ...]:
        return (self.train_split,) if self.extra_split is None else (self.train_split, self.extra_split)

    @property
    def _training_samples(self) -> list[Sample]:
        return [sample for split in self._training_splits for sample in self._samples[split]]

    def _seen(self) -> int:
        if self.trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.completed * self.batch_size

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def _found(self, split: str) -> list[Sample]:
        samples = self.find_samples(split)
        name = self.labels.name
        if not samples:
            others = [key for key in ("test_split", "predict_split") if getattr(self, key) == split != self.val_split]
            remedy = "".join(f", or give --data.{key} {self.val_split}" for key in others)
            raise DataNotFoundError(
                f"no image of {name} {split} in {self.root.absolute()}; expected {self.layout}{remedy}. {self.origin}"
            )
        images: dict[str, Path] = {}
        for sample in samples:
            if images.setdefault(sample.name, sample.image) != sample.image:
                raise DataFileError(
                    f"{images[sample.name]} and {sample.image} are both named {sample.name} in {name} {split}; "
                    "expected unique names, as predictions are saved under them"
                )
        if len(samples) < self._world_size:
            raise ConfigError(f"{name} {split} has {len(samples)} images for {self._world_size} ranks; use fewer")
        complete = self.labels.complete_counts(split)
        if complete and len(samples) not in complete and self._rank == 0:
            _log.warning(
                "%s %s has %d images, the complete data set %s: scores do not compare with published ones",
                name,
                split,
                len(samples),
                " or ".join(map(str, complete)),
            )
        return samples

    def _require_labels(self, split: str) -> None:
        missing = [
            sample for sample in self._samples[split] if sample.label is None or not os.path.isfile(sample.label)
        ]
        if missing:
            raise DataNotFoundError(
                f"{len(missing)} of {len(self._samples[split])} images of {self.labels.name} {split} have no label, "
                f"the first is {missing[0].image}; expected {missing[0].label}. {self.origin}"
            )

    def _check_class(self) -> None:
        missing = [name for name in ("labels", "splits", "layout", "origin") if not hasattr(self, name)]
        if self.evaluator is not None and type(self).evaluate_files is SegmentationDataModule.evaluate_files:
            missing.append("evaluate_files")
        if missing:
            raise ConfigError(
                f"class {type(self).__name__} does not define {', '.join(missing)}; see SegmentationDataModule, or the "
                "example in CONTRIBUTING.md"
            )

    def _check_settings(self) -> None:
        check_ranges(vars(self))
        check_transforms(self.transforms, self.ignore_index)
        for split in (*self._training_splits, self.val_split, self.test_split, self.predict_split):
            if split not in self.splits:
                raise UnknownNameError(f"split of {self.labels.name}", split, self.splits)
        for split in (*self._training_splits, self.val_split, self.test_split):
            if split in self.unlabelled_splits:
                raise ConfigError(f"{self.labels.name} {split} has no labels to train or score with; use predict")
