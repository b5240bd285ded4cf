"""`FolderDataModule`: a user's own images and masks in two folders."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from os.path import isdir, isfile  # unlike pathlib's, they take names that are too long
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from hrseg.data.base import SegmentationDataModule
from hrseg.data.classes import read_classes
from hrseg.data.dataset import Sample
from hrseg.errors import ConfigError, DataFileError, DataNotFoundError, UnknownNameError
from hrseg.utils.checks import as_list
from hrseg.utils.images import images_below
from hrseg.utils.paths import expanded
from hrseg.utils.text_files import read_list

_log = logging.getLogger(__name__)

_SPLITS = ("train", "val", "test")
_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


class FolderDataModule(SegmentationDataModule):
    """Any images with masks of the same names; further arguments as for `SegmentationDataModule`.

    Image and mask are a pair if their paths below `images` and `masks` are equal except for extension and suffix. The
    two folders are in the root or in each of its folders train, val and test. A mask holds label ids, palette indices,
    or, in three channels, the colours of the classes; kinds may be mixed.

    Splits: train, val, trainval (both) and test.

    Args:
        root: The data set's folder.
        classes: A YAML file as for `hrseg.data.classes.read_classes`, its path relative to the root, or its content.
        batch_size: Training images per rank.
        crop_size: (height, width) of training crops in pixels; smaller images are padded.
        images: Folder of the images in the root, searched recursively.
        masks: Folder of the masks in the root.
        image_suffix: Ending of the image names that mask names lack, such as "_leftImg8bit" or ".jpg", or a list of
            them if splits differ (["_training", "_test"]); other files are ignored.
        mask_suffix: Ending of the mask names, such as "_mask". With suffixes, images and masks may share a folder.
        splits: Definition of train, val and optionally test: sub-folders of `images` ({"train": "training", ...});
            .txt lists in the root with an image per line, as a path below `images` ({"train": "fold_1.txt", ...}); or
            shares of a random split ({"train": 0.8, ...}). None looks for sub-folders train, val and test, then for
            lists train.txt, val.txt and test.txt, and otherwise splits 80, 10 and 10 %.
        split_seed: Seed of the random split, apart from `seed` so that trainings with other seeds share their splits.
        test_split: Split scored by `test`; None for test, or val if there is no test.
        predict_split: Split segmented by `predict`; None for test, or val if there is no test.

    Raises:
        ConfigError: The classes cannot be read, or a value is out of range.
        UnknownNameError: A split is not train, val or test.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "trainval", "test")
    layout: ClassVar[str] = (
        "images in images/ and masks of the same names in masks/; in sub-folders train, val and test of both, in "
        "train/images and train/masks and so on, with lists train.txt, val.txt and test.txt, or with none of these"
    )
    origin: ClassVar[str] = (
        "Set data.images and data.masks if the folders have other names, data.splits if those of the splits do (valid, "
        "validation), data.image_suffix and data.mask_suffix if the file names end differently"
    )

    def __init__(
        self,
        root: str | Path,
        classes: str | Path | dict[str, Any] = "classes.yaml",
        batch_size: int = 8,
        crop_size: tuple[int, int] = (512, 512),
        images: str = "images",
        masks: str = "masks",
        image_suffix: str | list[str] = "",
        mask_suffix: str | list[str] = "",
        splits: dict[str, str | float] | None = None,
        split_seed: int = 0,
        test_split: str | None = None,
        predict_split: str | None = None,
        **kwargs: Any,
    ) -> None:
        if splits is not None:
            _check_splits(splits)
        if split_seed < 0:
            raise ConfigError(f"data.split_seed is {split_seed}; expected 0 or more")
        if not (as_list(image_suffix) and as_list(mask_suffix)):
            raise ConfigError("data.image_suffix or data.mask_suffix is an empty list; expected a suffix or several")
        folder = expanded(root)
        self.labels = read_classes(classes if isinstance(classes, dict) else folder / classes, folder.absolute().name)
        self.images = images
        self.masks = masks
        self.image_suffix = image_suffix
        self.mask_suffix = mask_suffix
        self._given_splits = splits
        self.split_seed = split_seed
        self.root = folder
        held_out = "test" if "test" in self._sources else "val"
        super().__init__(
            root,
            batch_size,
            crop_size,
            test_split=test_split or held_out,
            predict_split=predict_split or held_out,
            **kwargs,
        )

    def setup(self, stage: str) -> None:
        """See `SegmentationDataModule.setup`; also warns if val replaces a missing test split."""
        super().setup(stage)
        for verb, chosen in (("test", self.test_split), ("predict", self.predict_split)):
            if stage == verb and chosen == "val" and "test" not in self._sources and self._rank == 0:
                _log.warning("%s has no split test: `hrseg %s` takes val", self.labels.name, verb)

    def find_samples(self, split: str) -> list[Sample]:
        """Lists a split sorted by name, or in the order of its list."""
        if split == "trainval":
            return self.find_samples("train") + self.find_samples("val")
        samples = []
        for name in self._names(split):
            ending = as_list(self.mask_suffix)[0]
            expected = self._place(self.masks, name, ending if ending.lower().endswith(".png") else f"{ending}.png")
            samples.append(Sample(name, self._images[name], self._masks.get(name, expected)))
        return samples

    def stray_labels(self) -> list[Path]:
        """The masks without an image."""
        return [mask for name, mask in self._masks.items() if name not in self._images]

    def _names(self, split: str) -> list[str]:
        source = self._sources.get(split, "")
        if not isinstance(source, str):
            return self._drawn(self._sources)[split]
        if source.endswith(".txt"):
            return self._listed(self.root / source)
        return [name for name in self._images if source and name.startswith(f"{source}/")]

    @cached_property
    def _sources(self) -> Mapping[str, str | float]:
        """The source of each split that exists."""
        if self._given_splits:
            return self._given_splits
        folders = {split: split for split in _SPLITS if any(name.startswith(f"{split}/") for name in self._images)}
        if folders:
            return {**folders}
        lists = {split: f"{split}.txt" for split in _SPLITS if isfile(self.root / f"{split}.txt")}
        return {**lists} if lists else {**_SHARES}

    def _drawn(self, shares: Mapping[str, str | float]) -> dict[str, list[str]]:
        names = list(self._images)
        # unlike permutations, the raw bits of a generator are the same in every version of NumPy
        order = np.argsort(np.random.PCG64(self.split_seed).random_raw(len(names)), kind="stable")
        num_val, num_test = (
            max(1, round(float(shares[split]) * len(names))) if split in shares else 0 for split in ("val", "test")
        )
        val, test, train = np.split(order, [num_val, num_val + num_test])
        drawn = {"train": train, "val": val, "test": test}
        return {split: [names[index] for index in sorted(indices)] for split, indices in drawn.items()}

    def _listed(self, path: Path) -> list[str]:
        names = read_list(path)
        names = [name if name in self._images else str(PurePosixPath(name).with_suffix("")) for name in names]
        missing = [name for name in names if name not in self._images]
        if missing:
            raise DataNotFoundError(
                f"{len(missing)} of {len(names)} images that {path} names are missing, the first is {missing[0]}; "
                f"expected paths below {self.root / self.images}, without image_suffix"
            )
        return names

    @cached_property
    def _images(self) -> dict[str, Path]:
        masks = set(self._masks.values())  # which may be in the same folder
        found = self._files(self.images, as_list(self.image_suffix))
        return {name: path for name, path in found.items() if path not in masks}

    @cached_property
    def _masks(self) -> dict[str, Path]:
        return self._files(self.masks, as_list(self.mask_suffix))

    def _files(self, folder: str, suffixes: Sequence[str]) -> dict[str, Path]:
        """The files below root/folder by name, or below root/SPLIT/folder by SPLIT/name."""
        splits = [""] if isdir(self.root / folder) else self._split_folders
        found: dict[str, Path] = {}
        for split, suffix in product(splits, suffixes):
            for rest, path in images_below(self.root / split / folder, suffix).items():
                name = str(PurePosixPath(split, rest))
                if name in found:
                    raise DataFileError(f"{found[name]} and {path} have the same name; expected one file for both")
                found[name] = path
        return dict(sorted(found.items()))

    def _place(self, folder: str, name: str, ending: str) -> Path:
        """The expected path of a file."""
        split, _, rest = name.partition("/")
        if split in self._split_folders and not isdir(self.root / folder):
            return self.root / split / folder / f"{rest}{ending}"
        return self.root / folder / f"{name}{ending}"

    @property
    def _split_folders(self) -> list[str]:
        given = [source for source in (self._given_splits or {}).values() if isinstance(source, str)]
        return [source for source in given if not source.endswith(".txt")] or [*_SPLITS]


def _check_splits(splits: Mapping[str, str | float]) -> None:
    for split in splits:
        if split not in _SPLITS:
            raise UnknownNameError("split in data.splits", split, _SPLITS)
    if "train" not in splits or "val" not in splits:
        raise ConfigError(f"data.splits is {dict(splits)}; expected train and val, and test if there is one")
    shares = [source for source in splits.values() if not isinstance(source, str)]
    are_shares = len(shares) == len(splits) and min(shares) > 0 and bool(np.isclose(sum(shares), 1))
    if shares and not are_shares:
        raise ConfigError(
            f"data.splits is {dict(splits)}; expected shares above 0 that add up to 1, or a folder or list for each"
        )
