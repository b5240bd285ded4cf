"""Images for verbs that measure on them: given, of a run's data set, or generated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from hrseg.cli import one_line
from hrseg.cli.run_config import read_run_config
from hrseg.errors import HrsegError
from hrseg.utils.images import read_image
from hrseg.utils.lazy import Lazy

_SCENE = (360, 480)  # pixels of generated images

if TYPE_CHECKING:
    from hrseg.data.dataset import Sample
    from hrseg.data.labels import LabelTable

T = TypeVar("T")


def samples_of_run(
    run_dir: Path, split: Literal["train", "val"], limit: int, trust: bool
) -> tuple[list[Sample], LabelTable]:
    """Lists images with labels of the data that a run was trained on.

    Args:
        run_dir: The run's folder, with its config.yaml.
        split: The split that the run trained on, or the one that it was validated on.
        limit: The largest number of images.
        trust: Whether to build any class that config.yaml names.

    Returns:
        The samples, and the table of their label files.

    Raises:
        ConfigError: config.yaml cannot be used.
        DataNotFoundError: The data set is not here.
    """
    from hrseg.cli.data_options import parse_data  # Lightning

    data = parse_data(["--config", read_run_config(run_dir / "config.yaml", trust)[0]])
    data.require_root()
    data.setup("validate" if split == "val" else "fit")
    samples = data.find_samples(data.val_split if split == "val" else data.train_split)
    return evenly_spread(samples, limit), data.labels


def evenly_spread(samples: list[T], limit: int) -> list[T]:
    """At most `limit` items, from the first to the last at equal distances."""
    if len(samples) <= limit:
        return samples
    return [samples[index] for index in np.linspace(0, len(samples) - 1, limit).round().astype(int)]


def read_targets(samples: list[Sample], labels: LabelTable) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Reads samples one at a time: the image (H, W, 3) uint8 RGB, and train ids (H, W) uint8 if there is a label."""
    from hrseg.data.dataset import read_sample

    for sample in samples:
        arrays = read_sample(sample, labels)
        yield arrays["image"], arrays.get("mask")


def images_to_measure(
    images: Sequence[Path] | None, run_dir: Path | None, limit: int, trust: bool
) -> tuple[Sequence[tuple[np.ndarray, np.ndarray | None]], LabelTable | None]:
    """Returns given images, or those of a run's val split, or generated scenes; prints why they are generated.

    Args:
        images: Files; None to use the run's.
        run_dir: The run's folder; None without one.
        limit: The largest number of images.
        trust: As for `samples_of_run`.

    Returns:
        Images (H, W, 3) uint8 RGB with train ids (H, W) uint8 if they are known, read when they are needed; and the
        table of these.
    """
    if images is not None:
        return Lazy(images[:limit], lambda path: (read_image(path), None)), None
    reason = "give --images for others"
    if run_dir is not None:
        try:
            samples, labels = samples_of_run(run_dir, "val", limit, trust)
            return Lazy(samples, lambda sample: next(read_targets([sample], labels))), labels
        except HrsegError as error:
            reason = f"no val split: {one_line(str(error))}"
    print(f"measured on generated scenes ({reason})", flush=True)
    return Lazy(range(limit), _generated), None


def _generated(index: int) -> tuple[np.ndarray, None]:
    from hrseg.data.datasets.street_scenes import generate_scene

    return generate_scene(0, "val", index, _SCENE).image, None
