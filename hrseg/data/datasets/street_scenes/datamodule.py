"""`StreetScenesDataModule`: a data set of generated street scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from hrseg.data.datasets.cityscapes import CITYSCAPES, CityscapesDataModule
from hrseg.data.datasets.street_scenes.files import write_scenes
from hrseg.errors import ConfigError
from hrseg.utils.paths import cache_folder, expanded
from hrseg.utils.resize import require_pixels

_VERSION = 1  # incremented whenever the scenes change; part of the folder name
_SMALLEST_SIDE = 64  # pixels; thin objects vanish in smaller images
_MOST_SCENES = 1_000_000  # per split; more would take weeks to draw


class StreetScenesDataModule(CityscapesDataModule):
    """Generated street scenes with the classes and layout of Cityscapes, to try hrseg without a download.

    `prepare_data` draws the scenes once, into a folder per combination of settings. All splits are labelled, and no two
    splits share a scene.

    Args:
        root: Parent of the scene folders; None for the cache directory.
        batch_size: Training images per rank.
        crop_size: (height, width) of training crops in pixels.
        image_size: (height, width) of the scenes in pixels.
        num_train: Number of training scenes.
        num_val: Number of validation scenes.
        num_test: Number of test scenes.
        scene_seed: Seed of the scenes.
        scale_range: Smallest and largest random scale of training images.
        test_split: Split scored by `test`.
        kwargs: The other arguments of `SegmentationDataModule`.

    Raises:
        ConfigError: A value is out of range.
    """

    labels = replace(CITYSCAPES, name="street scenes", counts={})
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "trainval", "test")
    unlabelled_splits: ClassVar[tuple[str, ...]] = ()
    origin: ClassVar[str] = (
        "`prepare_data()`, which the command calls, draws the scenes; remove the folder to have them drawn again"
    )

    def __init__(
        self,
        root: str | Path | None = None,
        batch_size: int = 8,
        crop_size: tuple[int, int] = (128, 256),
        image_size: tuple[int, int] = (128, 256),
        num_train: int = 512,
        num_val: int = 64,
        num_test: int = 64,
        scene_seed: int = 0,
        scale_range: tuple[float, float] = (1.0, 1.0),
        test_split: str = "test",
        **kwargs: Any,
    ) -> None:
        self.image_size = (image_size[0], image_size[1])
        self.counts = {"train": num_train, "val": num_val, "test": num_test}
        self.scene_seed = scene_seed
        if min(self.image_size) < _SMALLEST_SIDE:
            raise ConfigError(f"data.image_size is {self.image_size}; expected {_SMALLEST_SIDE} or more per side")
        require_pixels(self.image_size, "a scene of data.image_size")
        if min(self.counts.values()) < 1 or max(self.counts.values()) > _MOST_SCENES or scene_seed < 0:
            raise ConfigError(
                f"data.num_train, num_val, num_test: {num_train}, {num_val}, {num_test}; scene_seed: {scene_seed}; "
                f"expected 1 scene or more per split, {_MOST_SCENES} at most, and a seed of 0 or more"
            )
        home = expanded(root) if root else cache_folder()
        height, width = self.image_size
        name = f"street_scenes_v{_VERSION}_{height}x{width}_seed{scene_seed}_{num_train}-{num_val}-{num_test}"
        super().__init__(home / name, batch_size, crop_size, scale_range=scale_range, test_split=test_split, **kwargs)

    def prepare_data(self) -> None:
        """Draws the scenes, unless they exist."""
        write_scenes(self.root, self.counts, self.image_size, self.scene_seed)
        super().prepare_data()
