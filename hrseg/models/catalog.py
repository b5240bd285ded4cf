"""The models by name, with their sizes. Needs no torch, so that listing them is quick."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class ModelInfo:
    """Size of a model.

    Args:
        parameters: Learnt numbers, with 19 classes.
        multiply_adds: Of the convolutions for one image of 1024x2048, with 19 classes. The papers print this number
            divided by 2**30 and call it GFLOPs.
    """

    parameters: int
    multiply_adds: int


MODELS = {
    "hrnetv2_w18_small_v1": ModelInfo(1_540_819, 33_390_854_144),
    "hrnetv2_w18_small_v2": ModelInfo(3_939_579, 76_856_885_248),
    "hrnetv2_w18": ModelInfo(9_641_119, 147_401_048_064),
    "hrnetv2_w30": ModelInfo(26_024_695, 323_583_836_160),
    "hrnetv2_w32": ModelInfo(29_546_515, 361_226_043_392),
    "hrnetv2_w40": ModelInfo(45_894_435, 535_447_470_080),
    "hrnetv2_w44": ModelInfo(55_424_779, 636_749_742_080),
    "hrnetv2_w48": ModelInfo(65_859_379, 747_513_053_184),
    "hrnetv2_w64": ModelInfo(116_640_339, 1_285_176_688_640),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that fit a shell pattern.

    >>> list_models("*small*")
    ['hrnetv2_w18_small_v1', 'hrnetv2_w18_small_v2']
    """
    return [name for name in MODELS if fnmatchcase(name, pattern)]
