"""Range checks of the arguments of `SegmentationDataModule`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import albumentations as A

from hrseg.errors import ConfigError
from hrseg.utils.checks import require
from hrseg.utils.image_formats import max_pixels

_SMALLEST_SIDE = 32  # the networks' coarsest stride
_MOST_WORKERS = 256


def _is_size(size: tuple[int, int]) -> bool:
    return min(size) >= _SMALLEST_SIDE and size[0] * size[1] <= max_pixels()


_Rule = tuple[Callable[[Any], bool], str]  # a predicate, and what is expected
_COUNT: _Rule = (lambda value: value >= 1, "1 or more")
_SHARE: _Rule = (lambda value: 0 <= value <= 1, "0 to 1")
_POSITIVE: _Rule = (lambda value: value > 0, "more than 0")
_RANGE: _Rule = (lambda value: 0 < value[0] <= value[1] < math.inf, "the smaller factor first, both positive")
_SIZES = f"{_SMALLEST_SIDE} or more per side, and no more pixels than images may have (HRSEG_MAX_PIXELS)"
_RULES: dict[str, _Rule] = {
    "batch_size": _COUNT,
    "eval_batch_size": _COUNT,
    "crop_size": (_is_size, _SIZES),
    "input_size": (lambda value: value is None or _is_size(value), _SIZES),
    "base_size": (lambda value: value is None or value >= 1, "1 or more"),
    "scale_range": _RANGE,
    "scale_step": _POSITIVE,
    "aspect_range": _RANGE,
    "flip_probability": _SHARE,
    "color_jitter": _SHARE,
    "extra_ratio": _POSITIVE,
    "class_uniform": _SHARE,
    "num_workers": (lambda value: value is None or 0 <= value <= _MOST_WORKERS, f"0 to {_MOST_WORKERS}"),
    "seed": (lambda value: value is None or 0 <= value < 2**32, "0 to 4294967295, or null for that of the run"),
    "on_error": (lambda value: value in ("raise", "skip"), "raise or skip"),
}


def check_ranges(settings: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` if an argument of a data module, by its name, is outside its range."""
    for name, (is_right, expected) in _RULES.items():
        require(is_right(settings[name]), f"data.{name}", settings[name], expected)


def check_transforms(transforms: Sequence[A.BasicTransform | A.BaseCompose], ignore_index: int) -> None:
    """Raises a `ConfigError` if a transform would fill labels with a class."""
    for transform in _leaves(transforms):
        if getattr(transform, "fill_mask", None) not in (None, ignore_index):
            raise ConfigError(
                f"data.transforms: {type(transform).__name__} would fill the label with {transform.fill_mask}, "
                f"which is a class; give it fill_mask {ignore_index}"
            )


def _leaves(transforms: Sequence[A.BasicTransform | A.BaseCompose]) -> Iterator[A.BasicTransform]:
    for transform in transforms:
        if isinstance(transform, A.BaseCompose):
            yield from _leaves(transform.transforms)
        else:
            yield transform
