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
    "hrnetv2_w18_small_v1_ocr": ModelInfo(3_842_278, 291_296_444_416),
    "hrnetv2_w18_small_v2_ocr": ModelInfo(6_379_278, 352_881_868_800),
    "hrnetv2_w18_ocr": ModelInfo(12_080_818, 423_426_031_616),
    "hrnetv2_w30_ocr": ModelInfo(29_293_834, 708_325_179_392),
    "hrnetv2_w32_ocr": ModelInfo(32_953_894, 764_086_779_904),
    "hrnetv2_w40_ocr": ModelInfo(49_854_774, 1_010_785_779_712),
    "hrnetv2_w44_ocr": ModelInfo(59_661_598, 1_148_326_838_272),
    "hrnetv2_w48_ocr": ModelInfo(70_372_678, 1_295_328_935_936),
    "hrnetv2_w64_ocr": ModelInfo(122_259_558, 1_977_947_717_632),
    "hrnetv2_w18_small_v1_ocr_hmsa": ModelInfo(5_613_030, 654_077_460_480),
    "hrnetv2_w18_small_v2_ocr_hmsa": ModelInfo(8_150_030, 731_059_240_960),
    "hrnetv2_w18_ocr_hmsa": ModelInfo(13_851_570, 819_239_444_480),
    "hrnetv2_w30_ocr_hmsa": ModelInfo(31_064_586, 1_175_363_379_200),
    "hrnetv2_w32_ocr_hmsa": ModelInfo(34_724_646, 1_245_065_379_840),
    "hrnetv2_w40_ocr_hmsa": ModelInfo(51_625_526, 1_553_439_129_600),
    "hrnetv2_w44_ocr_hmsa": ModelInfo(61_432_350, 1_725_365_452_800),
    "hrnetv2_w48_ocr_hmsa": ModelInfo(72_143_430, 1_909_118_074_880),
    "hrnetv2_w64_ocr_hmsa": ModelInfo(124_030_310, 2_762_391_552_000),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that fit a shell pattern.

    >>> list_models("*small_v?")
    ['hrnetv2_w18_small_v1', 'hrnetv2_w18_small_v2']
    """
    return [name for name in MODELS if fnmatchcase(name, pattern)]
