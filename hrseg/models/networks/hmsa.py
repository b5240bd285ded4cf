"""HRNetV2 + OCR with hierarchical multi-scale attention: the predictions of several scales, weighted for each pixel.

The same network predicts logits at each scale, and an attention map: the weight of this scale against the combined
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

TRAINING_SCALES = (0.5, 1.0)  # in the order of the official code, which batch norm's running statistics depend on


class HRNetV2OCRMultiScale(HRNetV2OCR):
    """HRNetV2 + OCR with hierarchical multi-scale attention, trained at full and at half size.

    Args:
        variant: See `Network`, as for all that are not described here.
        num_classes: K.
        in_channels: Channels of the images.
        fuse_mode: "bilinear" or "nearest".
        align_corners: False in the official code.
        bn_momentum: See `Network`.
        init: As of `HRNetV2OCR`; the attention over scales keeps torch's own initialisation.
        checkpoint_stages: Of 1, 2, 3, 4.
        mid_channels: As of `HRNetV2OCR`, as the next two.
        key_channels: Of the attention to regions.
        dropout: Of the last features.
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
            "out" and "aux", (B, K, H, W), of all scales combined; in training also "out_1_0" and "out_0_5", those of
            full and of half size alone.
        """
        at_scale = {scale: self._at(images, scale) for scale in TRAINING_SCALES} if self.training else None
        total: dict[str, Tensor] = {}
        singly: dict[str, Tensor] = {}
        for scale in sorted(at_scale or self.scales, reverse=True):
            logits, share = at_scale[scale] if at_scale else self._at(images, scale)
            for name, values in logits.items():
                total[name] = self._join(total[name], values, share, scale) if name in total else values
            if self.training:
                singly[f"out_{scale}".replace(".", "_")] = self._like(logits["out"], total["out"])
        return total | singly

    def _at(self, images: Tensor, scale: float) -> tuple[dict[str, Tensor], Tensor]:
        """Logits (B, K, h, w) and attention (B, 1, h, w) of one scale, at the size of the scaled images."""
        scaled = images
        if scale != 1:
            height, width = (_scaled(side, scale) for side in images.shape[-2:])
            scaled = upsample(images, (height, width), self.align_corners)
        features, scores = self.representations(scaled)
        logits = {"out": self._like(self.cls_head(features), scaled), "aux": self._like(scores, scaled)}
        return logits, self._like(self.scale_attn(features), scaled)

    def _join(self, before: Tensor, values: Tensor, share: Tensor, scale: float) -> Tensor:
        """Combines a scale with the finer ones; from full size on, it also sets the size of the result."""
        if scale >= 1:
            before, weighted = self._like(before, values), share * values
        else:
            weighted, share = self._like(share * values, before), self._like(share, before)
        return weighted + (1 - share) * before

    def _like(self, x: Tensor, other: Tensor) -> Tensor:
        return upsample(x, other.shape[-2:], self.align_corners)


def _scaled(side: int, scale: float) -> int:
    """Rounds down, as the official code does: 62 of 90 x 0.7, which is 62.99999999999999; to one pixel at least."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        # graphs for any size need integers; for scales that are no binary fractions, this may be one more
        return side * round(scale * 10_000) // 10_000
    return max(1, int(side * scale))


def _scale_attention(in_channels: int, bn_momentum: float, width: int = 256) -> nn.Sequential:
    """From object-contextual features to the attention of their scale; attributes have the official names."""
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
