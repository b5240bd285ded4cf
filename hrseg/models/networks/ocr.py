"""HRNetV2 with object-contextual representations (OCR): every pixel attends to one region per class.

The logits of an auxiliary head define K soft object regions. A region is represented by the average of its pixels'
features; each pixel attends to the K region representations, which augment its own features. Attention to K regions,
not to all pixels, is linear in the number of pixels.

Attribute names are those of the official code, so that its weights load without renaming keys.

Source:
    Yuan, Chen and Wang, "Object-Contextual Representations for Semantic Segmentation", arXiv 1909.11065;
    HRNet/HRNet-Semantic-Segmentation, branch HRNet-OCR, lib/models/seg_hrnet_ocr.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hrseg.models.networks.base import Segmenter, check_channel_order
from hrseg.models.networks.hrnet import HRNET_BACKBONE, VARIANTS, HRNet, HRNetVariant, concatenate, initialize
from hrseg.models.registry import FileFormat, Shapes, register
from hrseg.utils.checks import is_number, require, require_channels, require_kernel


def gather_regions(pixels: Tensor, scores: Tensor) -> Tensor:
    """Averages the features of all pixels for each class, weighted by the softmax of its scores over all pixels.

    Args:
        pixels: Features (B, C, h, w).
        scores: Logits (B, K, h, w).

    Returns:
        (B, C, K, 1): a vector per class, as an image of K pixels.

    Example:
        >>> gather_regions(torch.tensor([[[[2.0, 4.0]]]]), torch.tensor([[[[0.0, 0.0]], [[90.0, 0.0]]]])).flatten()
        tensor([3., 2.])
    """
    weights = _softmax(scores.flatten(2), dim=2).to(pixels.dtype)
    return torch.bmm(weights, pixels.flatten(2).transpose(1, 2)).transpose(1, 2).unsqueeze(3)


class ObjectAttention(nn.Module):
    """Attention of the pixels, as queries, to the regions, as keys and values.

    Args:
        mid_channels: Channels of pixels, regions and output.
        key_channels: Channels of queries, keys and values.
        bias: Whether the convolutions have a bias, which has no effect before batch norm but is in some files.
        negative_slope: Negative slope of the activations.
    """

    def __init__(self, mid_channels: int, key_channels: int, bias: bool, negative_slope: float) -> None:
        super().__init__()
        project = partial(_projection, bias=bias, negative_slope=negative_slope)
        self.f_pixel = project(mid_channels, key_channels, key_channels)
        self.f_object = project(mid_channels, key_channels, key_channels)
        self.f_down = project(mid_channels, key_channels)
        self.f_up = project(key_channels, mid_channels)

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Maps pixels (B, mid, h, w) and regions (B, mid, K, 1) to the context of each pixel, (B, mid, h, w)."""
        queries = self.f_pixel(pixels)
        keys, values = self.f_object(regions).squeeze(3), self.f_down(regions).squeeze(3)
        scale = keys.shape[1] ** -0.5
        weights = _softmax(torch.bmm((scale * keys).transpose(1, 2), queries.flatten(2)), dim=1).to(values.dtype)
        out: Tensor = self.f_up(torch.bmm(values, weights).reshape(queries.shape))
        return out


class SpatialOCR(nn.Module):
    """Fuses each pixel with its object context; the official `ocr_distri_head`.

    `ObjectAttention` describes the arguments that are not listed here.

    Args:
        dropout: Probability that a channel of the output is zeroed in training.
        bias: Whether the convolutions have a bias.
    """

    def __init__(self, mid_channels: int, key_channels: int, dropout: float, bias: bool, negative_slope: float) -> None:
        super().__init__()
        self.object_context_block = ObjectAttention(mid_channels, key_channels, bias, negative_slope)
        projection = _projection(2 * mid_channels, mid_channels, bias=bias, negative_slope=negative_slope)
        self.conv_bn_dropout = nn.Sequential(*projection, nn.Dropout2d(dropout))

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Maps pixels (B, mid, h, w) and regions (B, mid, K, 1) to (B, mid, h, w)."""
        x = torch.cat([self.object_context_block(pixels, regions), pixels], dim=1)
        for layer in self.conv_bn_dropout:  # layer by layer, which frees the concatenation, the widest map
            x = layer(x)
        return x


class OCRHead(Segmenter):
    """The OCR head as a mixin: the other base class is the backbone, which supplies `features`.

    Its layers are attributes of the network itself, since their keys have no prefix in the official files. The
    network's constructor calls `add_head`.
    """

    head_names: ClassVar[tuple[str, ...]] = ("conv3x3_ocr", "ocr_distri_head", "cls_head", "aux_head")
    # the official code fine-tunes OCR from networks with the plain head
    head_aliases: ClassVar[Mapping[str, str]] = {"last_layer.": "aux_head."}
    output_weights: ClassVar[Mapping[str, float]] = {"out": 1.0, "aux": 0.4}

    def add_head(
        self,
        widths: Sequence[int],
        num_classes: int,
        mid_channels: int = 512,
        key_channels: int = 256,
        dropout: float = 0.05,
        inner_bias: bool = False,
        aux_kernel: int = 1,
        aux_channels: int | None = None,
        negative_slope: float = 0.0,
        bn_momentum: float = 0.1,
        init: str = "official",
    ) -> None:
        """Builds the head; the network's `align_corners` must be set.

        `HRNetV2OCR` describes the arguments that are not listed here.

        Args:
            widths: Channels of the backbone's four maps, finest first.
            num_classes: K, the channels of the logits and the number of regions.
            init: "official": torch's own initialisation; "kaiming": He normal, for training from scratch.

        Raises:
            ConfigError: An argument is outside its range.
        """
        channels = sum(widths)
        aux_channels = channels if aux_channels is None else aux_channels
        require_channels(
            num_classes=num_classes, mid_channels=mid_channels, key_channels=key_channels, aux_channels=aux_channels
        )
        require(is_number(dropout, 0, 1), "dropout", dropout, "from 0 to below 1")
        require(isinstance(inner_bias, bool), "inner_bias", inner_bias, "true or false")
        require_kernel("aux_kernel", aux_kernel)
        require(is_number(negative_slope, 0, 1), "negative_slope", negative_slope, "from 0 to below 1")
        self.num_classes = num_classes
        self.negative_slope = float(negative_slope)
        self.conv3x3_ocr = nn.Sequential(*_conv_bn_relu(channels, mid_channels, 3, negative_slope))
        self.ocr_distri_head = SpatialOCR(mid_channels, key_channels, dropout, inner_bias, negative_slope)
        self.cls_head = nn.Conv2d(mid_channels, num_classes, 1)
        self.aux_head = nn.Sequential(
            *_conv_bn_relu(channels, aux_channels, aux_kernel, negative_slope), nn.Conv2d(aux_channels, num_classes, 1)
        )
        for layer in (self.conv3x3_ocr, self.ocr_distri_head, self.cls_head, self.aux_head):
            if init != "official":
                initialize(layer, init, bn_momentum)
            for module in layer.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = bn_momentum

    def ocr_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images (B, in_channels, H, W) to object-contextual features and auxiliary logits.

        Returns:
            (B, mid_channels, H / 4, W / 4) and (B, K, H / 4, W / 4), sizes rounded up.
        """
        x = concatenate(self.features(images), self.align_corners)
        scores = self.aux_head(x)
        x = self.conv3x3_ocr(x)
        return self.ocr_distri_head(x, gather_regions(x, scores)), scores

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images (B, in_channels, H, W) to logits at stride 4.

        Returns:
            "out" and, of the auxiliary head, "aux": (B, K, H / 4, W / 4), sizes rounded up.
        """
        features, scores = self.ocr_features(images)
        return {"out": self.cls_head(features), "aux": scores}


class HRNetV2OCR(HRNet, OCRHead):
    """HRNetV2 + OCR for semantic segmentation; its parameters have the names of the official files.

    `Network` describes the arguments that are not listed here.

    Args:
        align_corners: True in the official code.
        init: "kaiming", or "official", which leaves the head to torch's own initialisation.
        mid_channels: Channels of pixels and regions; 256 in openseg's OCR_B.
        key_channels: Channels of the attention's queries, keys and values; 128 in openseg's OCR_B.
        dropout: Probability that a channel of the last features is zeroed in training, below 1; 0 in mmsegmentation.
        inner_bias: Whether the attention's convolutions have a bias, as in openseg.
        aux_kernel: Kernel size of the auxiliary head's first convolution, odd; 3 in openseg.
        aux_channels: Output channels of that convolution; None for as many as its input has, 15C. 256 in openseg's
            OCR_B.
        negative_slope: Negative slope of the head's activations; 0.01 in the first weights of openseg, from InPlaceABN.
        channel_order: "bgr" in the weights of openseg.

    Raises:
        ConfigError: An argument is outside its range.

    Source:
        HRNet/HRNet-Semantic-Segmentation, branch HRNet-OCR, lib/models/seg_hrnet_ocr.py. For the variants:
        openseg-group/openseg.pytorch, lib/models/nets/hrnet.py; mmsegmentation, configs/_base_/models/ocrnet_hr18.py.
    """

    def __init__(
        self,
        variant: HRNetVariant,
        num_classes: int = 19,
        in_channels: int = 3,
        fuse_mode: str = "bilinear",
        align_corners: bool = True,
        bn_momentum: float = 0.1,
        init: str = "kaiming",
        checkpoint_stages: Sequence[int] = (),
        mid_channels: int = 512,
        key_channels: int = 256,
        dropout: float = 0.05,
        inner_bias: bool = False,
        aux_kernel: int = 1,
        aux_channels: int | None = None,
        negative_slope: float = 0.0,
        channel_order: str = "rgb",
    ) -> None:
        super().__init__(variant, in_channels, fuse_mode, align_corners, checkpoint_stages)
        self.channel_order = check_channel_order(channel_order)
        initialize(self, init, bn_momentum)  # the backbone alone, as in the official code
        self.add_head(
            self.widths,
            num_classes,
            mid_channels,
            key_channels,
            dropout,
            inner_bias,
            aux_kernel,
            aux_channels,
            negative_slope,
            bn_momentum,
            init,
        )


def _softmax(x: Tensor, dim: int) -> Tensor:
    """Softmax in single precision at least: in half precision, weights of many pixels would not sum to 1."""
    return x.softmax(dim, dtype=torch.promote_types(x.dtype, torch.float32))


def _conv_bn_relu(in_channels: int, out_channels: int, kernel: int, negative_slope: float) -> list[nn.Module]:
    """Convolution with bias (without effect, but in the official files), batch norm and activation."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    return [conv, nn.BatchNorm2d(out_channels), _activation(negative_slope)]


def _projection(*channels: int, bias: bool, negative_slope: float) -> nn.Sequential:
    """1x1 convolutions from each number of channels to the next, with batch norm and activation."""
    layers: list[nn.Module] = []
    for inside, out in pairwise(channels):
        layers.append(nn.Conv2d(inside, out, 1, bias=bias))
        # nested one level deeper, as in the official code and its files
        layers.append(nn.Sequential(nn.BatchNorm2d(out), _activation(negative_slope)))
    return nn.Sequential(*layers)


def _activation(negative_slope: float) -> nn.Module:
    return nn.LeakyReLU(negative_slope, inplace=True) if negative_slope else nn.ReLU(inplace=True)


def head_arguments(shapes: Shapes) -> dict[str, Any]:
    """Reads the constructor arguments of the head from its shapes."""
    inside = "ocr_distri_head.object_context_block.f_pixel.0"
    if not {"cls_head.weight", "aux_head.0.weight", f"{inside}.weight"} <= set(shapes):
        return {}
    aux_channels, channels, aux_kernel, _ = shapes["aux_head.0.weight"]
    return {
        "mid_channels": shapes["cls_head.weight"][1],
        "key_channels": shapes[f"{inside}.weight"][0],
        "inner_bias": f"{inside}.bias" in shapes,
        "aux_kernel": aux_kernel,
        "aux_channels": None if aux_channels == channels else aux_channels,
    }


OPENSEG = FileFormat("openseg or HRFormer segmentation", "module.", "state_dict")
NVIDIA = FileFormat("NVIDIA", "module.", "state_dict")

register(
    "hrnetv2_SIZE_ocr",
    HRNetV2OCR,
    VARIANTS,
    title="HRNetV2 + OCR, object-contextual representations",
    authors="Yuan, Chen and Wang",
    arxiv="1909.11065",
    backbone=HRNET_BACKBONE,
    head_keys=("cls_head.weight",),
    classes_key="cls_head.weight",
    head_arguments=head_arguments,
    formats={
        # with a prefix: network and loss are one module. Networks with inner biases are openseg's
        "official": lambda config: OPENSEG if config["inner_bias"] else FileFormat(prefix="model."),
        "mmseg": FileFormat("mmsegmentation OCR"),
        "timm": FileFormat(backbone_only=True),
    },
)
