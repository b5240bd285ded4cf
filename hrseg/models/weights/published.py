"""The published weights as data: where to download each, what it was trained on, and the published results.

Links, hashes and figures are copied from the projects' own pages and configurations. None of the links could be tried
where hrseg is developed, and no figure was measured again. The mirrors of a name hold the same published weights in
different files; that they are equal to the last bit was not verified. A licence is that of the project that published
the weights; the images they were trained on may be under another.

Needs no torch, so listing is quick.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hrseg.models.weights.mirrors import HUB, Mirror

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Checkpoint:
    """Published weights.

    Args:
        network: Name of the network; not all of them are networks of hrseg.
        tag: The rest of the name: what the weights were trained for, and by whom if not by the network's authors.
        data: Training data.
        protocol: How the published result was obtained; empty if nothing was published.
        result: The published result in per cent; None if there is none.
        result_ms: The same with multi-scale testing, and flip where the publisher flips; None if there is none.
        metric: Of the results.
        mirrors: Downloads that need no browser, in the order to be tried.
        page: Download that needs a browser; empty if none is known.
        page_file: Name of the file there, or the name to give it where that is not known.
        licence: Of the project that published them; empty if it states none.
        parameters: Constructor arguments of the training that differ from the defaults or are easily mistaken.
        channels: Order of the colour channels.
        mean: Of the channels of images in 0..1, in that order; subtracted.
        std: Standard deviation of the channels; divided by.
        note: What a user has to know.
    """

    network: str
    tag: str
    data: str
    protocol: str = ""
    result: float | None = None
    result_ms: float | None = None
    metric: str = "mIoU"
    mirrors: tuple[Mirror, ...] = ()
    page: str = ""
    page_file: str = "weights.pth"
    licence: str = "MIT"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    channels: str = "RGB"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    note: str = ""

    @property
    def name(self) -> str:
        """`NETWORK.TAG`, such as `hrnetv2_w48.cityscapes`."""
        return f"{self.network}.{self.tag}"

    @property
    def files(self) -> tuple[str, ...]:
        """Names that the file may have, the most likely first."""
        by_hand = (self.page_file,) if self.page else ()
        return tuple(dict.fromkeys((*by_hand, *(mirror.file for mirror in self.mirrors))))

    @property
    def readable(self) -> bool:
        """Whether hrseg reads the format of the files."""
        return not all(file.endswith(".pdparams") for file in self.files)


_CLS = "https://github.com/HRNet/HRNet-Image-Classification"
_SEG = "https://github.com/HRNet/HRNet-Semantic-Segmentation"
_OPENMMLAB = "https://download.openmmlab.com"
_MMPOSE = f"{_OPENMMLAB}/mmpose/pretrain_models"
_STORAGE = "https://github.com/hsfzxjy/models.storage/releases/download"
_OPENSEG = "https://github.com/openseg-group/openseg.pytorch/releases/download/v1.0"
_PADDLE = "https://bj.bcebos.com/paddleseg/dygraph/cityscapes"

_CLS_PAGE = f"OneDrive or Baidu, by the links in the README of {_CLS}"
_MASTER_PAGE = f"OneDrive or Baidu, by the links in the READMEs of {_SEG}, branches master and pytorch-v1.1"
_POSE_PAGE = (
    "OneDrive or Google Drive, by the links in the README of https://github.com/leoxiaobin/"
    "deep-high-resolution-net.pytorch"
)
_HRFORMER_PAGE = "OneDrive, by the links in the README of https://github.com/HRNet/HRFormer"
_NVIDIA_PAGE = "a folder on Google Drive, by the link in the README of https://github.com/NVIDIA/semantic-segmentation"
_PSA_PAGE = "cmu.box.com, by the links in the README of https://github.com/DeLightCMU/PSA"

_WHOLE = "Cityscapes val, whole image, one scale"
_WHOLE_MS = "Cityscapes test, six scales and flip"
_LIP_FLIP = "LIP val, 473x473, flip"
_CONTEXT_MS = "PASCAL-Context val, 59 classes, sliding window, seven scales and flip"


def _imagenet() -> Iterator[Checkpoint]:
    """Classifiers, whose backbones segmentation networks start from."""

    def row(size: str, tag: str, *mirrors: Mirror, error: float | None = None, **others: Any) -> Checkpoint:
        protocol = "ImageNet val, 224x224 centre crop of 256" if error is not None else ""
        return Checkpoint(
            f"hrnetv2_{size}", tag, "ImageNet-1k", protocol, error, metric="top-1 error", mirrors=mirrors, **others
        )

    def hub(tag: str) -> Mirror:
        return Mirror(f"{HUB}timm/{tag}/model.safetensors")

    def openmmlab(file: str) -> Mirror:
        return _with_hash(f"{_OPENMMLAB}/pretrain/third_party/{file}")

    def storage(file: str) -> Mirror:
        return Mirror(f"{_STORAGE}/openseg-pytorch-pretrained/{file}")

    def release(file: str) -> Mirror:
        return Mirror(f"{_CLS}/releases/download/PretrainedWeights/{file}")

    errors = {
        "w18_small_v1": 27.7,
        "w18_small_v2": 24.9,
        "w18": 23.2,
        "w30": 21.8,
        "w32": 21.5,
        "w40": 21.1,
        "w44": 21.1,
        "w48": 20.7,
        "w64": 20.5,
    }
    more = {
        # what OpenMMLab calls small has the second layout
        "w18_small_v2": (openmmlab("hrnetv2_w18_small-b5a04e21.pth"),),
        "w18": (storage("hrnetv2_w18_imagenet_pretrained.pth"), openmmlab("hrnetv2_w18-00eb2006.pth")),
        "w32": (storage("hrnetv2_w32_imagenet_pretrained.pth"), openmmlab("hrnetv2_w32-dc9eeb4f.pth")),
        "w40": (openmmlab("hrnetv2_w40-ed0b031c.pth"),),
        "w48": (storage("hrnetv2_w48_imagenet_pretrained.pth"), openmmlab("hrnetv2_w48-d2186c55.pth")),
    }
    for size, error in errors.items():
        on_hub = hub(f"hrnet_{size.removesuffix('_v1')}.ms_in1k")
        file = f"hrnetv2_{size}_imagenet_pretrained.pth"
        if "small" in size:
            file = f"hrnet_w18_small_model_{size[-2:]}.pth"
        page = f"{_CLS_PAGE}; or {_NVIDIA_PAGE}" if size == "w48" else _CLS_PAGE
        yield row(size, "imagenet", on_hub, *more.get(size, ()), error=error, page=page, page_file=file)

    yield row("w18", "imagenet_aug", hub("hrnet_w18.ms_aug_in1k"))
    yield row("w18_small_v1", "imagenet_gluon", hub("hrnet_w18_small.gluon_in1k"), licence="Apache-2.0")
    yield row("w18_small_v2", "imagenet_gluon", hub("hrnet_w18_small_v2.gluon_in1k"), licence="Apache-2.0")
    for size, cutmix, ssld in (("w18", 22.1, 18.8), ("w48", 18.9, 16.4)):
        file = f"HRNet_{size.upper()}_C_cosinelr_cutmix_300epoch.pth.tar"
        note = "a training checkpoint, whose layout was not verified"
        yield row(size, "imagenet_cutmix", release(file), error=cutmix, note=note)
        released = release(f"HRNet_{size.upper()}_C_ssld_pretrained.pth")
        yield row(size, "imagenet_ssld", hub(f"hrnet_{size}_ssld.paddle_in1k"), released, error=ssld)

    yield Checkpoint(
        "hr_rnet_bt_w20",
        "imagenet_openseg",
        "ImageNet-1k",
        mirrors=(storage("hr_rnet_bt_w20_imagenet_pretrained.pth"),),
        note="of openseg's own network, which hrseg does not have",
    )
    for network, file in (("hrnetv1_w32", "hrnet_w32-36af842e.pth"), ("hrnetv1_w48", "hrnet_w48-8ef0771d.pth")):
        yield Checkpoint(
            network,
            "imagenet_pose",
            "ImageNet-1k",
            mirrors=(_with_hash(f"{_MMPOSE}/{file}"),),
            page=_POSE_PAGE,
            page_file=file,
            note="what the authors' pose networks start from",
        )
    inferred = "; OpenMMLab's folder is inferred from where it has hrformer_s"
    for network, result, files, more_of_it in (
        ("hrformer_t", 78.6, (), ""),
        ("hrformer_s", 81.2, ("hrformer_small-09516375_20220226.pth",), ""),
        ("hrformer_b", 82.8, ("hrformer_base-32815020_20220226.pth",), inferred),
    ):
        yield Checkpoint(
            network,
            "imagenet",
            "ImageNet-1k",
            "ImageNet val",
            result,
            metric="top-1",
            mirrors=tuple(_with_hash(f"{_MMPOSE}/{file}") for file in files),
            page=_HRFORMER_PAGE,
            note=f"the README does not say what the file is called{more_of_it}",
        )


def _official() -> Iterator[Checkpoint]:
    """Of the authors of HRNet and of OCR."""

    def row(
        network: str,
        tag: str,
        data: str,
        file: str,
        protocol: str,
        result: float,
        classes: int,
        corners: bool,
        note: str = "",
        several: float | None = None,
    ) -> Checkpoint:
        parameters = {"num_classes": classes, "align_corners": corners}
        mirror = Mirror(f"{_STORAGE}/HRNet-OCR/{file}")
        return Checkpoint(
            network, tag, data, protocol, result, several, mirrors=(mirror,), parameters=parameters, note=note
        )

    plain, ocr = "hrnetv2_w48", "hrnetv2_w48_ocr"
    cityscapes, coco, ade = "Cityscapes train", "COCO-Stuff train", "ADE20K train"
    context = "PASCAL-Context train, 59 classes"
    coco_val, ade_val = "COCO-Stuff val, one scale", "ADE20K val, one scale"
    sixty = "the README links it for 60 classes with OCR too, by mistake; those weights have no link of their own"
    torch04 = "written with torch 0.4: batch norm may be InPlaceABN's, whose scale is |weight| + 1e-5 (not verified)"
    renamed = "a command in the README calls it hrnet_ocr_trainval_cs_8227_torch11.pth"
    trainval = "Cityscapes train and val"

    yield row(plain, "cityscapes", cityscapes, "hrnet_cs_8090_torch11.pth", _WHOLE, 80.9, 19, False)
    yield row(ocr, "cityscapes", cityscapes, "hrnet_ocr_cs_8162_torch11.pth", _WHOLE, 81.6, 19, True)
    file = "hrnet_ocr_cs_trainval_8227_torch11.pth"
    yield row(ocr, "cityscapes_trainval", trainval, file, _WHOLE_MS, 82.3, 19, True, renamed)
    yield row(plain, "lip", "LIP train", "hrnet_lip_5583_torch04.pth", _LIP_FLIP, 55.83, 20, False, torch04)
    yield row(ocr, "lip", "LIP train", "hrnet_ocr_lip_5648_torch04.pth", _LIP_FLIP, 56.48, 20, True, torch04)
    file = "hrnet_pascal_ctx_5410_torch11.pth"
    yield row(plain, "pascal_context_59", context, file, _CONTEXT_MS, 54.1, 59, False, sixty)
    file = "hrnet_ocr_pascal_ctx_5618_torch11.pth"
    yield row(ocr, "pascal_context_59", context, file, _CONTEXT_MS, 56.2, 59, True)
    file = "hrnet_cocostuff_3617_torch04.pth"
    yield row(plain, "coco_stuff", coco, file, coco_val, 36.2, 171, True, torch04, 37.9)
    file = "hrnet_ocr_cocostuff_3965_torch04.pth"
    yield row(ocr, "coco_stuff", coco, file, coco_val, 39.7, 171, True, torch04, 40.6)
    yield row(plain, "ade20k", ade, "hrnet_ade20k_4312_torch04.pth", ade_val, 43.1, 150, True, torch04, 44.2)
    yield row(ocr, "ade20k", ade, "hrnet_ocr_ade20k_4451_torch04.pth", ade_val, 44.5, 150, True, torch04, 45.5)

    def by_hand(
        network: str, tag: str, data: str, file: str, protocol: str, result: float, classes: int, note: str = ""
    ) -> Checkpoint:
        parameters = {"num_classes": classes, "align_corners": False}
        return Checkpoint(
            network, tag, data, protocol, result, page=_MASTER_PAGE, page_file=file, parameters=parameters, note=note
        )

    yield Checkpoint(
        plain,
        "pascal_context_60",
        "PASCAL-Context train, 60 classes",
        _CONTEXT_MS.replace("59", "60"),
        48.3,
        page=f"OneDrive, by the link in the README of {_SEG}, branch HRNet-OCR",
        parameters={"num_classes": 60, "align_corners": False},
        note="what the file is called was not written down",
    )

    file = "hrnet_w18_small_v1_cityscapes_cls19_1024x2048_trainset.pth"
    yield by_hand("hrnetv2_w18_small_v1", "cityscapes", cityscapes, file, _WHOLE, 70.3, 19)
    file = "hrnet_w48_cityscapes_cls19_1024x2048_trainset.pth"
    note = "80.9 is the figure of branch master; that of pytorch-v1.1 is 81.1"
    yield by_hand(plain, "cityscapes_master", cityscapes, file, _WHOLE, 80.9, 19, note)
    file = "hrnet_w48_cityscapes_cls19_1024x2048_ohem_trainvalset.pth"
    yield by_hand(plain, "cityscapes_ohem_trainval_master", trainval, file, _WHOLE_MS, 81.9, 19)
    file = "hrnet_w48_pascal_context_cls59_480x480.pth"
    yield by_hand(plain, "pascal_context_59_master", context, file, _CONTEXT_MS, 54.1, 59)
    file = "hrnet_w48_lip_cls20_473x473.pth"
    yield by_hand(plain, "lip_master", "LIP train", file, _LIP_FLIP, 56.04, 20)


def _openseg() -> Iterator[Checkpoint]:
    """Of openseg.pytorch: BGR images, another auxiliary head, biases in the inner convolutions of the OCR block."""

    def row(
        tag: str,
        data: str,
        release: str,
        file: str,
        protocol: str,
        result: float | None,
        classes: int | None,
        note: str = "",
        several: float | None = None,
    ) -> Checkpoint:
        parameters: dict[str, Any] = {"align_corners": True, "inner_bias": True, "aux_kernel": 3}
        if classes is not None:
            parameters["num_classes"] = classes
        if "_ocr_b_" in file:
            parameters |= {"mid_channels": 256, "key_channels": 128, "aux_channels": 256}
        return Checkpoint(
            "hrnetv2_w48_ocr",
            f"{tag}_openseg",
            data,
            protocol,
            result,
            several,
            mirrors=(Mirror(f"{release}/{file}"),),
            parameters=parameters,
            channels="BGR",
            note=note,
        )

    in_place = "of branch master, whose batch norm is InPlaceABN's: scale |weight| + 1e-5, leaky ReLU of slope 0.01"
    runs = "two runs, which are published as a range"

    def old(data_set: str) -> str:
        return f"{_STORAGE}/{data_set}"

    cityscapes = old("openseg.pytorch.cityscapes")
    file = "hrnet_w48_ocr_1_latest.pth"
    yield row("cityscapes", "Cityscapes train", cityscapes, file, "Cityscapes val", 81.09, 19, in_place)
    file = "hrnet_w48_ocr_b_mapillary_bs16_500000_1024x1024_lr0.01_1_latest.pth"
    yield row("mapillary_b", "Mapillary Vistas", cityscapes, file, "Mapillary Vistas val", 50.8, None, in_place)
    file = "hrnet_w48_ocr_b_hrnet48_8_20000_trainval_coarse_trainval_mapillary_pretrain_freeze_bn_1_latest.pth"
    data = "Mapillary Vistas, then Cityscapes train and val, coarse, train and val again"
    yield row("cityscapes_mapillary_b", data, cityscapes, file, "Cityscapes test", 84.2, 19, in_place)
    context, context_val = "PASCAL-Context train, 59 classes", "PASCAL-Context val, 59 classes"
    file = "hrnet_w48_ocr_hrnet48_2_latest.pth"
    release = old("openseg.pytorch.pascal_context")
    yield row("pascal_context_59", context, release, file, context_val, 55.11, 59, in_place)
    release = old("opeseg.pytorch.lip")  # as it is written there
    yield row("lip", "LIP train", release, "hrnet_w48_ocr_1_latest.pth", "LIP val, flip", 56.72, 20, in_place)
    file = "hrnet_w48_ocr_hrnet48_ohem_2_latest.pth"
    release = old("openseg.pytorch.coco_stuff")
    yield row("coco_stuff", "COCO-Stuff train", release, file, "COCO-Stuff val, one scale", 39.61, 171, in_place, 40.20)
    file = "hrnet_w48_ocr_hrnet48_ohem_1_latest.pth"
    release = old("openseg.pytorch.ade20k")
    yield row("ade20k", "ADE20K train", release, file, "ADE20K val, one scale", 44.62, 150, in_place, 46.19)

    for run in (1, 2):
        file = f"cityscapes_hrnet_w48_ocr_rmi_paddle_lr2x_run{run}_latest.pth"
        note = "the page links it in the row without RMI" if run == 1 else ""
        protocol = f"Cityscapes val: 82.57-82.64, {runs}"
        yield row(f"cityscapes_rmi_run{run}", "Cityscapes train", _OPENSEG, file, protocol, None, 19, note)
        file = f"pascal_context_hrnet_w48_ocr_rmi_paddle_run{run}_latest.pth"
        protocol = f"{context_val}: 58.53-58.72, with several scales 59.62-59.86, {runs}"
        yield row(f"pascal_context_59_rmi_run{run}", context, _OPENSEG, file, protocol, None, 59)
    file = "lip_hrnet_w48_ocr_rmi_paddle_latest.pth"
    yield row("lip_rmi", "LIP train", _OPENSEG, file, "LIP val, flip", 58.21, 20)
    file = "ade20k_hrnet_w48_ocr_hrnet48_rmi_paddle_latest.pth"
    yield row("ade20k_rmi", "ADE20K train", _OPENSEG, file, "ADE20K val, one scale", 46.59, 150, several=47.98)


def _others() -> Iterator[Checkpoint]:
    """Of other projects with the same networks."""

    def openmmlab(
        network: str, tag: str, data: str, file: str, protocol: str, result: float, several: float, classes: int
    ) -> Checkpoint:
        folder = "ocrnet" if file.startswith("ocrnet") else "hrnet"
        config = re.sub(r"_\d{8}_\d{6}-[0-9a-f]{8}\.pth$", "", file)
        mirror = _with_hash(f"{_OPENMMLAB}/mmsegmentation/v0.5/{folder}/{config}/{file}")
        return Checkpoint(
            network,
            f"{tag}_mmseg",
            data,
            protocol,
            result,
            several,
            mirrors=(mirror,),
            licence="Apache-2.0",
            parameters={"num_classes": classes, "align_corners": False},
            note="the same function at sizes that 32 divides",
        )

    file = "fcn_hr48_512x1024_160k_cityscapes_20200602_190946-59b7973e.pth"
    yield openmmlab("hrnetv2_w48", "cityscapes", "Cityscapes train", file, _WHOLE, 80.65, 81.92, 19)
    file = "ocrnet_hr48_512x1024_160k_cityscapes_20200602_191037-dfbf1b0c.pth"
    yield openmmlab("hrnetv2_w48_ocr", "cityscapes", "Cityscapes train", file, _WHOLE, 81.35, 82.70, 19)
    file = "fcn_hr48_480x480_80k_pascal_context_59_20210411_003240-3ae7081e.pth"
    data, protocol = "PASCAL-Context train, 59 classes", "PASCAL-Context val, 59 classes, sliding window, one scale"
    yield openmmlab("hrnetv2_w48", "pascal_context_59", data, file, protocol, 51.12, 53.56, 59)

    for network, config, result, several in (
        ("hrnetv2_w18", "fcn_hrnetw18_cityscapes_1024x512_80k", 78.97, 80.04),
        ("hrnetv2_w48", "fcn_hrnetw48_cityscapes_1024x512_80k", 80.70, 81.76),
        ("hrnetv2_w18_ocr", "ocrnet_hrnetw18_cityscapes_1024x512_160k", 80.67, 81.62),
        ("hrnetv2_w48_ocr", "ocrnet_hrnetw48_cityscapes_1024x512_160k", 82.15, 83.02),
    ):
        yield Checkpoint(
            network,
            "cityscapes_paddleseg",
            "Cityscapes train",
            _WHOLE,
            result,
            several,
            mirrors=(Mirror(f"{_PADDLE}/{config}/model.pdparams"),),
            licence="Apache-2.0",
            parameters={"num_classes": 19},
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            note="Paddle's own format, which load_weights does not read",
        )

    def nvidia(
        network: str, tag: str, data: str, file: str, protocol: str, result: float | None, classes: int
    ) -> Checkpoint:
        return Checkpoint(
            network,
            f"{tag}_nvidia",
            data,
            protocol,
            result,
            page=_NVIDIA_PAGE,
            page_file=file,
            licence="CC BY-NC-SA 4.0",
            parameters={"num_classes": classes, "align_corners": False},
            note="Google Drive gives the folder as a zip archive, which --from takes as it is",
        )

    file = "ocrnet.HRNet_industrious-chicken.pth"
    yield nvidia("hrnetv2_w48_ocr", "mapillary", "Mapillary Vistas", file, "", None, 65)
    scales = "hrnetv2_w48_ocr_hmsa"
    file = "cityscapes_ocrnet.HRNet_Mscale_outstanding-turtle.pth"
    data = "Mapillary Vistas, then Cityscapes train and automatic labels of the coarse split"
    yield nvidia(scales, "cityscapes", data, file, "Cityscapes val, scales 0.5, 1 and 2", 86.92, 19)
    file = "mapillary_ocrnet.HRNet_Mscale_fast-rattlesnake.pth"
    protocol = "Mapillary Vistas val, scales 0.25, 0.5, 1 and 2, flip"
    yield nvidia(scales, "mapillary", "Mapillary Vistas", file, protocol, 61.05, 65)

    for form, result in (("p", 86.95), ("s", 86.72)):
        yield Checkpoint(
            f"hrnetv2_w48_psa_{form}_ocr",
            "cityscapes",
            "Mapillary Vistas, then Cityscapes train and automatic labels of the coarse split",
            "Cityscapes val, as NVIDIA's networks",
            result,
            page=_PSA_PAGE,
            licence="",
            parameters={"num_classes": 19, "align_corners": False},
            note="the page does not say whether it is the network with several scales, nor what the file is called",
        )

    context, coco, ade = "PASCAL-Context train", "COCO-Stuff train", "ADE20K train"
    for data, tag, classes, results in (
        ("Cityscapes train", "cityscapes", 19, ((80.0, 81.0), (81.4, 82.0), (81.9, 82.6))),
        (context, "pascal_context", None, ((53.8, 54.6), (56.3, 57.1), (57.6, 58.5))),
        (coco, "coco_stuff", 171, ((37.9, 38.9), (41.6, 42.5), (42.4, 43.3))),
        (ade, "ade20k", 150, ((44.0, 45.1), (46.3, 47.6), (48.7, 50.0))),
    ):
        large = 13 if tag == "ade20k" else 15
        for size, window, (result, several) in zip("sbb", (7, 7, large), results, strict=True):
            yield Checkpoint(
                f"hrformer_{size}_ocr",
                tag if window == 7 else f"{tag}_window{window}",
                data,
                f"{data.removesuffix('train')}val, one scale",
                result,
                several,
                page=_HRFORMER_PAGE,
                parameters={"window_size": window} | ({"num_classes": classes} if classes else {}),
                channels="BGR",
                note="the README does not say what the file is called",
            )


def _with_hash(url: str) -> Mirror:
    """A file of OpenMMLab, which has the start of its hash in its name."""
    found = re.search(r"-([0-9a-f]{8})(_\d{8})?\.pth$", url)
    assert found is not None
    return Mirror(url, sha256=found[1])


# by name
ZOO: dict[str, Checkpoint] = {
    checkpoint.name: checkpoint for rows in (_imagenet, _official, _openseg, _others) for checkpoint in rows()
}

# mean IoU in per cent that the authors published of networks whose weights are not available: network, protocol, result
FURTHER_RESULTS = (
    ("hrnetv2_w18_small_v2", "Cityscapes val, whole image, one scale", 76.2),
    ("hrnetv2_w40", "Cityscapes val, whole image, one scale", 80.2),
)
