"""HRNetV2 + OCR with hierarchical multi-scale attention: predictions at several scales, combined pixel by pixel.

At each scale the same network predicts logits and an attention map: the weight of this scale against the combined
prediction of the finer ones. Since attention relates adjacent scales only, evaluation may use other scales than
training.

Source:
    Tao, Sapra and Catanzaro, "Hierarchical Multi-Scale Attention for Semantic Segmentation", arXiv 2005.10821;
    NVIDIA/semantic-segmentation, network/ocrnet.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from hrseg.models.networks.hrnet import HRNET_BACKBONE, VARIANTS, HRNetVariant
from hrseg.models.networks.ocr import NVIDIA, HRNetV2OCR, head_arguments
from hrseg.models.registry import FileFormat, register
from hrseg.utils.checks import is_number, require
from hrseg.utils.upsample import upsample

TRAINING_SCALES = (0.5, 1.0)  # in the official order, which the running statistics of batch norm depend on


class HRNetV2OCRMultiScale(HRNetV2OCR):
    """HRNetV2 + OCR with hierarchical multi-scale attention, trained at full and at half size.

    `HRNetV2OCR` and `Network` describe the arguments that are not listed here.

    Args:
        align_corners: False in the official code.
        init: See `HRNetV2OCR`; the attention over scales keeps torch's own initialisation.
        scales: Scales in evaluation, to four decimals, 1 among them; 0.5, 1 and 2 in the published results.

    Raises:
        ConfigError: An argument is outside its range.
    """

    head_names: ClassVar[tuple[str, ...]] = (*HRNetV2OCR.head_names, "scale_attn")
    output_weights: ClassVar[Mapping[str, float]] = {**HRNetV2OCR.output_weights, "out_1_0": 0.05, "out_0_5": 0.05}

    def __init__(
        self,
        variant: HRNetVariant,
        num_classes: int = 19,
        in_channels: int = 3,
        fuse_mode: str = "bilinear",
        align_corners: bool = False,
        bn_momentum: float = 0.1,
        init: str = "kaiming",
        checkpoint_stages: Sequence[int] = (),
        mid_channels: int = 512,
        key_channels: int = 256,
        dropout: float = 0.05,
        scales: Sequence[float] = TRAINING_SCALES,
    ) -> None:
        known = isinstance(scales, list | tuple) and all(is_number(s, 0.01, 100) for s in scales)
        require(known and 1 in scales, "scales", scales, "a list of numbers from 0.01 to below 100 with 1 among them")
        super().__init__(
            variant,
            num_classes,
            in_channels,
            fuse_mode,
            align_corners,
            bn_momentum,
            init,
            checkpoint_stages,
            mid_channels,
            key_channels,
            dropout,
        )
        self.scales = tuple(sorted((float(scale) for scale in scales), reverse=True))
        self.scale_attn = _scale_attention(mid_channels, bn_momentum)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images (B, in_channels, H, W) to logits at the images' own size.

        Returns:
            "out" and "aux", (B, K, H, W), of all scales combined; in training also "out_1_0" and "out_0_5", of full
            and half size alone.
        """
        at_scale = {scale: self._predict(images, scale) for scale in TRAINING_SCALES} if self.training else None
        total: dict[str, Tensor] = {}
        single: dict[str, Tensor] = {}
        for scale in sorted(at_scale or self.scales, reverse=True):
            logits, attention = at_scale[scale] if at_scale else self._predict(images, scale)
            for name, values in logits.items():
                total[name] = self._combine(total[name], values, attention, scale) if name in total else values
            if self.training:
                single[f"out_{scale}".replace(".", "_")] = self._resize_like(logits["out"], total["out"])
        return total | single

    def _predict(self, images: Tensor, scale: float) -> tuple[dict[str, Tensor], Tensor]:
        """Computes logits (B, K, h, w) and attention (B, 1, h, w) of one scale, at the size of the scaled images."""
        scaled = images
        if scale != 1:
            height, width = (_scaled(side, scale) for side in images.shape[-2:])
            scaled = upsample(images, (height, width), self.align_corners)
        features, scores = self.ocr_features(scaled)
        logits = {"out": self._resize_like(self.cls_head(features), scaled), "aux": self._resize_like(scores, scaled)}
        return logits, self._resize_like(self.scale_attn(features), scaled)

    def _combine(self, finer: Tensor, values: Tensor, attention: Tensor, scale: float) -> Tensor:
        """Combines a scale with the finer ones, at its own size from full size on, else at theirs."""
        if scale >= 1:
            finer, weighted = self._resize_like(finer, values), attention * values
        else:
            weighted = self._resize_like(attention * values, finer)
            attention = self._resize_like(attention, finer)
        return weighted + (1 - attention) * finer

    def _resize_like(self, x: Tensor, other: Tensor) -> Tensor:
        return upsample(x, other.shape[-2:], self.align_corners)


def _scaled(side: int, scale: float) -> int:
    """Side times scale, rounded down as in the official code (90 x 0.7 = 62.99... to 62), at least one pixel."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        # graphs for any size need integer arithmetic; unless the scale is a binary fraction, this may be one more
        return side * round(scale * 10_000) // 10_000
    return max(1, int(side * scale))


def _scale_attention(in_channels: int, bn_momentum: float, width: int = 256) -> nn.Sequential:
    """Maps object-contextual features to the attention of their scale; attributes have the official names."""
    return nn.Sequential(
        OrderedDict(
            conv0=nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            bn0=nn.BatchNorm2d(width, momentum=bn_momentum),
            re0=nn.ReLU(inplace=True),
            conv1=nn.Conv2d(width, width, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(width, momentum=bn_momentum),
            re1=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(width, 1, 1, bias=False),
            sig=nn.Sigmoid(),
        )
    )


register(
    "hrnetv2_SIZE_ocr_hmsa",
    HRNetV2OCRMultiScale,
    VARIANTS,
    title="HRNetV2 + OCR, hierarchical multi-scale attention",
    authors="Tao, Sapra and Catanzaro",
    arxiv="2005.10821",
    backbone=HRNET_BACKBONE,
    head_keys=("cls_head.weight", "scale_attn.conv0.weight"),
    classes_key="cls_head.weight",
    head_arguments=head_arguments,
    formats={"official": NVIDIA, "timm": FileFormat(backbone_only=True)},
)
