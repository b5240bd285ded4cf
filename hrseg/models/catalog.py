"""The models by name, with their sizes, and their families. Needs no torch, so that listing them is quick."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class ModelInfo:
    """Size of a model.

    Args:
        parameters: Learnt numbers, with 19 classes; of classifiers, with 1000.
        multiply_adds: Of the convolutions for one image of 1024x2048, with as many classes; of HRFormer, also of the
            linear layers and the attention. The papers print this number divided by 2**30 and call it GFLOPs; of PSA
            and HRFormer at this size they print none, these are measured.
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
    "hrnetv2_w18_small_v1_psa_p": ModelInfo(1_655_283, 33_412_435_200),
    "hrnetv2_w18_small_v2_psa_p": ModelInfo(4_249_971, 76_906_661_800),
    "hrnetv2_w18_psa_p": ModelInfo(10_538_239, 147_535_017_024),
    "hrnetv2_w30_psa_p": ModelInfo(28_510_615, 323_807_860_800),
    "hrnetv2_w32_psa_p": ModelInfo(32_374_291, 361_465_135_104),
    "hrnetv2_w40_psa_p": ModelInfo(50_309_795, 535_746_995_200),
    "hrnetv2_w44_psa_p": ModelInfo(60_766_027, 637_079_582_976),
    "hrnetv2_w48_psa_p": ModelInfo(72_214_579, 747_873_275_904),
    "hrnetv2_w64_psa_p": ModelInfo(127_931_987, 1_285_659_099_136),
    "hrnetv2_w18_small_v1_psa_p_ocr": ModelInfo(3_956_742, 291_318_025_472),
    "hrnetv2_w18_small_v2_psa_p_ocr": ModelInfo(6_689_670, 352_931_645_352),
    "hrnetv2_w18_psa_p_ocr": ModelInfo(12_977_938, 423_560_000_576),
    "hrnetv2_w30_psa_p_ocr": ModelInfo(31_779_754, 708_549_204_032),
    "hrnetv2_w32_psa_p_ocr": ModelInfo(35_781_670, 764_325_871_616),
    "hrnetv2_w40_psa_p_ocr": ModelInfo(54_270_134, 1_011_085_304_832),
    "hrnetv2_w44_psa_p_ocr": ModelInfo(65_002_846, 1_148_656_679_168),
    "hrnetv2_w48_psa_p_ocr": ModelInfo(76_727_878, 1_295_689_158_656),
    "hrnetv2_w64_psa_p_ocr": ModelInfo(133_551_206, 1_978_430_128_128),
    "hrnetv2_w18_small_v1_psa_p_ocr_hmsa": ModelInfo(5_727_494, 654_104_500_736),
    "hrnetv2_w18_small_v2_psa_p_ocr_hmsa": ModelInfo(8_460_422, 731_121_635_152),
    "hrnetv2_w18_psa_p_ocr_hmsa": ModelInfo(14_748_690, 819_407_407_232),
    "hrnetv2_w30_psa_p_ocr_hmsa": ModelInfo(33_550_506, 1_175_644_803_200),
    "hrnetv2_w32_psa_p_ocr_hmsa": ModelInfo(37_552_422, 1_245_365_829_632),
    "hrnetv2_w40_psa_p_ocr_hmsa": ModelInfo(56_040_886, 1_553_816_012_800),
    "hrnetv2_w44_psa_p_ocr_hmsa": ModelInfo(66_773_598, 1_725_780_750_848),
    "hrnetv2_w48_psa_p_ocr_hmsa": ModelInfo(78_498_630, 1_909_571_919_872),
    "hrnetv2_w64_psa_p_ocr_hmsa": ModelInfo(135_321_958, 2_763_000_905_728),
    "hrnetv2_w18_small_v1_psa_s": ModelInfo(1_638_623, 33_714_407_328),
    "hrnetv2_w18_small_v2_psa_s": ModelInfo(4_204_017, 77_713_492_432),
    "hrnetv2_w18_psa_s": ModelInfo(10_405_291, 149_743_177_680),
    "hrnetv2_w30_psa_s": ModelInfo(28_133_515, 329_941_640_880),
    "hrnetv2_w32_psa_s": ModelInfo(31_947_347, 368_444_016_640),
    "hrnetv2_w40_psa_s": ModelInfo(49_638_515, 546_651_497_600),
    "hrnetv2_w44_psa_s": ModelInfo(59_950_835, 650_274_029_824),
    "hrnetv2_w48_psa_s": ModelInfo(71_243_923, 763_575_759_360),
    "hrnetv2_w64_psa_s": ModelInfo(126_197_459, 1_313_574_625_280),
    "hrnetv2_w18_small_v1_psa_s_ocr": ModelInfo(3_940_082, 291_619_997_600),
    "hrnetv2_w18_small_v2_psa_s_ocr": ModelInfo(6_643_716, 353_738_475_984),
    "hrnetv2_w18_psa_s_ocr": ModelInfo(12_844_990, 425_768_161_232),
    "hrnetv2_w30_psa_s_ocr": ModelInfo(31_402_654, 714_682_984_112),
    "hrnetv2_w32_psa_s_ocr": ModelInfo(35_354_726, 771_304_753_152),
    "hrnetv2_w40_psa_s_ocr": ModelInfo(53_598_854, 1_021_989_807_232),
    "hrnetv2_w44_psa_s_ocr": ModelInfo(64_187_654, 1_161_851_126_016),
    "hrnetv2_w48_psa_s_ocr": ModelInfo(75_757_222, 1_311_391_642_112),
    "hrnetv2_w64_psa_s_ocr": ModelInfo(131_816_678, 2_006_345_654_272),
    "hrnetv2_w18_small_v1_psa_s_ocr_hmsa": ModelInfo(5_710_834, 654_481_952_576),
    "hrnetv2_w18_small_v2_psa_s_ocr_hmsa": ModelInfo(8_414_468, 732_130_136_992),
    "hrnetv2_w18_psa_s_ocr_hmsa": ModelInfo(14_615_742, 822_167_502_752),
    "hrnetv2_w30_psa_s_ocr_hmsa": ModelInfo(33_173_406, 1_183_311_736_160),
    "hrnetv2_w32_psa_s_ocr_hmsa": ModelInfo(37_125_478, 1_254_089_101_312),
    "hrnetv2_w40_psa_s_ocr_hmsa": ModelInfo(55_369_606, 1_567_446_124_800),
    "hrnetv2_w44_psa_s_ocr_hmsa": ModelInfo(65_958_406, 1_742_273_184_256),
    "hrnetv2_w48_psa_s_ocr_hmsa": ModelInfo(77_527_974, 1_929_199_281_152),
    "hrnetv2_w64_psa_s_ocr_hmsa": ModelInfo(133_587_430, 2_797_893_992_448),
    "hrnetv2_w18_small_v1_cls": ModelInfo(13_187_464, 66_850_914_304),
    "hrnetv2_w18_small_v2_cls": ModelInfo(15_597_464, 108_404_604_928),
    "hrnetv2_w18_cls": ModelInfo(21_299_004, 178_948_767_744),
    "hrnetv2_w30_cls": ModelInfo(37_712_220, 338_702_991_360),
    "hrnetv2_w32_cls": ModelInfo(41_232_680, 372_781_350_912),
    "hrnetv2_w40_cls": ModelInfo(57_557_160, 530_388_090_880),
    "hrnetv2_w44_cls": ModelInfo(67_064_984, 621_967_441_920),
    "hrnetv2_w48_cls": ModelInfo(77_469_864, 722_064_113_664),
    "hrnetv2_w64_cls": ModelInfo(128_059_944, 1_207_624_007_680),
    "hrnetv2p_w18_small_v1": ModelInfo(4_490_016, 136_275_034_112),
    "hrnetv2p_w18_small_v2": ModelInfo(6_880_496, 178_667_585_536),
    "hrnetv2p_w18": ModelInfo(12_582_036, 249_211_748_352),
    "hrnetv2p_w30": ModelInfo(28_878_132, 413_999_136_768),
    "hrnetv2p_w32": ModelInfo(32_379_072, 448_916_357_120),
    "hrnetv2p_w40": ModelInfo(48_625_472, 609_878_540_288),
    "hrnetv2p_w44": ModelInfo(58_094_256, 703_135_612_928),
    "hrnetv2p_w48": ModelInfo(68_460_096, 804_910_006_272),
    "hrnetv2p_w64": ModelInfo(118_894_016, 1_297_180_786_688),
    "hrnetv1_w18_small_v1": ModelInfo(1_284_995, 24_354_226_176),
    "hrnetv1_w18_small_v2": ModelInfo(3_616_713, 65_498_349_568),
    "hrnetv1_w18": ModelInfo(9_318_253, 136_042_512_384),
    "hrnetv1_w30": ModelInfo(25_135_945, 292_729_651_200),
    "hrnetv1_w32": ModelInfo(28_536_179, 326_195_216_384),
    "hrnetv1_w40": ModelInfo(44_319_835, 481_060_454_400),
    "hrnetv1_w44": ModelInfo(53_521_295, 571_094_859_776),
    "hrnetv1_w48": ModelInfo(63_595_843, 669_530_456_064),
    "hrnetv1_w64": ModelInfo(112_624_915, 1_147_284_750_336),
    "hrformer_t": ModelInfo(8_035_820, 72_060_998_976),
    "hrformer_s": ModelInfo(13_544_882, 142_886_346_752),
    "hrformer_b": ModelInfo(50_320_098, 568_411_752_000),
    "hrformer_t_ocr": ModelInfo(6_269_834, 503_673_214_272),
    "hrformer_s_ocr": ModelInfo(13_523_856, 826_995_662_848),
    "hrformer_b_ocr": ModelInfo(56_032_512, 2_082_154_399_296),
}


@dataclass(frozen=True)
class Family:
    """Networks that differ in nothing but their size.

    Args:
        title: What they are, in a few words.
        authors: Of the paper.
        arxiv: Its number there.
    """

    title: str
    authors: str
    arxiv: str


_HRNET = ("Wang et al.", "1908.07919")
_OCR = ("Yuan, Chen and Wang", "1909.11065")
_HMSA = ("Tao, Sapra and Catanzaro", "2005.10821")
_PSA = ("Liu et al.", "2107.00782")
_HRFORMER = ("Yuan et al.", "2110.09408")

# by the names of their networks
FAMILIES = {
    "hrnetv2_SIZE": Family("HRNetV2", *_HRNET),
    "hrnetv2_SIZE_ocr": Family("HRNetV2 + OCR, object-contextual representations", *_OCR),
    "hrnetv2_SIZE_ocr_hmsa": Family("HRNetV2 + OCR, hierarchical multi-scale attention", *_HMSA),
    "hrnetv2_SIZE_psa_p": Family("HRNetV2, polarized self-attention (PSA) in parallel", *_PSA),
    "hrnetv2_SIZE_psa_p_ocr": Family("HRNetV2 + OCR, PSA in parallel", *_PSA),
    "hrnetv2_SIZE_psa_p_ocr_hmsa": Family("HRNetV2 + OCR, multi-scale attention, PSA in parallel", *_PSA),
    "hrnetv2_SIZE_psa_s": Family("HRNetV2, polarized self-attention (PSA) in sequence", *_PSA),
    "hrnetv2_SIZE_psa_s_ocr": Family("HRNetV2 + OCR, PSA in sequence", *_PSA),
    "hrnetv2_SIZE_psa_s_ocr_hmsa": Family("HRNetV2 + OCR, multi-scale attention, PSA in sequence", *_PSA),
    "hrnetv2_SIZE_cls": Family("HRNetV2, ImageNet classifier", *_HRNET),
    "hrnetv2p_SIZE": Family("HRNetV2p, pyramid of features for detectors", *_HRNET),
    "hrnetv1_SIZE": Family("HRNetV1, the finest map alone, as for poses", "Sun et al.", "1902.09212"),
    "hrformer_SIZE": Family("HRFormer, ImageNet classifier", *_HRFORMER),
    "hrformer_SIZE_ocr": Family("HRFormer + OCR", *_HRFORMER),
}

# mean IoU in per cent that the authors published of networks whose weights are not to be had: network, protocol, result
FURTHER_RESULTS = (
    ("hrnetv2_w18_small_v2", "Cityscapes val, whole image, one scale", 76.2),
    ("hrnetv2_w40", "Cityscapes val, whole image, one scale", 80.2),
)


def split_name(name: str) -> tuple[str, str]:
    """Parts the name of a model into its family, a key of `FAMILIES`, and its size.

    >>> split_name("hrnetv2_w18_small_v1_psa_s")
    ('hrnetv2_SIZE_psa_s', 'w18_small_v1')
    """
    match = re.search(r"(?<=_)(w\d+(_small_v\d)?|[tsb])(?=_|$)", name)
    assert match is not None
    return f"{name[: match.start()]}SIZE{name[match.end() :]}", match[0]


def list_families(names: Iterable[str]) -> dict[str, list[str]]:
    """The families of models, each with those of its models that are among the names; in the order of the catalog."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(split_name(name)[0], []).append(name)
    return found


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that fit a shell pattern.

    >>> list_models("hrnetv2_*small_v?")
    ['hrnetv2_w18_small_v1', 'hrnetv2_w18_small_v2']
    """
    return [name for name in MODELS if fnmatchcase(name, pattern)]
