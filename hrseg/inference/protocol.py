"""Evaluation protocols: scales, flipping and sliding windows, and the class scores of an image under them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from hrseg.errors import ConfigError, UnknownNameError
from hrseg.inference.sliding import LastWindow, sliding_window
from hrseg.utils.checks import is_number, require
from hrseg.utils.resize import require_pixels, scaled_to
from hrseg.utils.upsample import upsample

_MOST_SCALES = 64
Fusion = Literal["logits", "softmax", "exp"]

_LOG_RANGE = -104.0, 88.73  # of positive float32, subnormal numbers included

_FUSE: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda logits: logits,
    "softmax": lambda logits: logits.softmax(1),
    "exp": torch.exp,
}


@dataclass(frozen=True)
class Protocol:
    """How the class scores of an image are computed.

    Args:
        scales: Scales of the image pyramid; the scores of all scales are resized to the image and summed.
        base_size: Long side of the images at scale 1, in pixels; None for each image's own.
        flip: Whether to average each view with its mirror image, whose logits have left and right classes swapped back.
        fusion: What is averaged over views: "logits"; "softmax", the probabilities; or "exp", the exponentials of the
            logits, which the official HRNet code sums over scales and averages over windows. A view and its mirror
            image are averaged as logits under "logits" and "exp", and as probabilities under "softmax".
        window: (height, width) of sliding windows in pixels; None for whole images.
        stride: (vertical, horizontal) stride of the windows in pixels; None is the window.
        last_window: Whether windows that extend beyond the image are padded ("pad") or moved back ("shift").
        whole_up_to: Largest scale at which images are evaluated whole in spite of `window`; None for no scale.
        windows_at_once: Batch size of windows; None is 4, and 1 on a CPU, which gains nothing from more.

    Raises:
        ConfigError: A value is outside its range.

    Source:
        HRNet-Semantic-Segmentation, tools/test.py and multi_scale_inference of lib/datasets.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # for protocols read from checkpoints

    scales: tuple[float, ...] = (1.0,)
    base_size: int | None = None
    flip: bool = False
    fusion: Fusion = "logits"
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    last_window: LastWindow = "pad"
    whole_up_to: float | None = None
    windows_at_once: int | None = None

    def __post_init__(self) -> None:
        stride, window = self.stride, self.window
        strides_fit = stride is None or (
            window is not None and 1 <= stride[0] <= window[0] and 1 <= stride[1] <= window[1]
        )
        are_scales = 0 < len(self.scales) <= _MOST_SCALES and all(0 < scale < math.inf for scale in self.scales)
        checks = {
            "scales": (are_scales, f"1 to {_MOST_SCALES} numbers above 0"),
            "base_size": (self.base_size is None or self.base_size >= 1, "1 or more"),
            "fusion": (self.fusion in get_args(Fusion), "logits, softmax or exp"),
            "window": (window is None or min(window) >= 32, "32 or more per side"),
            "stride": (strides_fit, "1 to the window's size, and a window"),
            "last_window": (self.last_window in get_args(LastWindow), "pad or shift"),
            "windows_at_once": (self.windows_at_once is None or self.windows_at_once >= 1, "1 or more"),
        }
        for name, (is_right, expected) in checks.items():
            require(is_right, f"protocol: {name}", getattr(self, name), expected)
        if window is not None:
            require_pixels(window, "protocol: a window")

    @property
    def is_plain(self) -> bool:
        """Whether the scores are the logits of the whole image at its own scale."""
        return self.scales == (1.0,) and self.base_size is None and not self.flip and self.window is None

    def largest_view(self, size: tuple[int, int]) -> int:
        """Number of pixels of the largest network input for one image.

        Args:
            size: (height, width) of the image.
        """
        views = []
        for scale in self.scales:
            height, width = scaled_to(size, self.base_size, scale)
            if self._has_windows(scale):
                assert self.window is not None
                height, width = min(height, self.window[0]), min(width, self.window[1])
            views.append(height * width)
        return max(views)

    def _has_windows(self, scale: float) -> bool:
        return self.window is not None and (self.whole_up_to is None or scale > self.whole_up_to)

    def scores(
        self,
        logits_of: Callable[[Tensor], Tensor],
        images: Tensor,
        *,
        align_corners: bool = False,
        flip_permutation: Sequence[int] | None = None,
        black: Tensor | float = 0.0,
    ) -> Tensor:
        """Computes the class scores of each pixel; the class with the largest score is predicted.

        Args:
            logits_of: The network: maps images (N, C, h, w) to logits (N, K, h', w') at any stride.
            images: (B, C, H, W) float, normalised.
            align_corners: How logits and scores are upsampled; the network's own setting.
            flip_permutation: The class that each class becomes in a mirrored image, `LabelTable.flip_permutation`.
            black: Padding value of windows: normalised black, a number or (C, 1, 1).

        Returns:
            (B, K, H, W), the sum over the scales.
        """

        def fuse(logits: Tensor, size: Sequence[int]) -> Tensor:
            large = upsample(logits, size, align_corners)
            if self.fusion == "exp" and large is not logits:  # in place, but never in what the network returned
                return large.exp_()
            return _FUSE[self.fusion](large)

        def view_scores(view: Tensor) -> Tensor:
            """Scores of one view at its own size, averaged with its mirror image under `flip`."""
            # bilinear upsampling commutes with mirroring: logits can be averaged while they are small
            logits = logits_of(view)
            if not self.flip:
                return fuse(logits, view.shape[-2:])
            mirrored = logits_of(view.flip(-1)).flip(-1)
            if flip_permutation is not None:
                mirrored = mirrored[:, list(flip_permutation)]
            if self.fusion == "softmax":
                return fuse(logits, view.shape[-2:]).add_(fuse(mirrored, view.shape[-2:])).div_(2)
            return fuse((logits + mirrored) / 2, view.shape[-2:])

        total: Tensor | None = None
        for scale in self.scales:
            size = images.shape[-2], images.shape[-1]
            scaled_size = scaled_to(size, self.base_size, scale)
            require_pixels(scaled_size, f"an image at scale {scale} of the protocol (base_size {self.base_size})")
            scaled = upsample(images, scaled_size, align_corners=False)
            if self.window is None or not self._has_windows(scale):
                scores = view_scores(scaled)
            else:
                scores = sliding_window(
                    view_scores,
                    scaled,
                    self.window,
                    self.stride or self.window,
                    self.last_window,
                    black,
                    self.windows_at_once or (1 if images.device.type == "cpu" else 4),
                )
            scores = upsample(scores, size, align_corners)
            total = scores if total is None else total.add_(scores)
        assert total is not None
        return total

    def fused_logits(self, scores: Tensor) -> Tensor:
        """Logits whose softmax are the probabilities that the scores stand for.

        Under the fusion "logits" the mean over the scales; under "softmax" and "exp" the logarithm of the scores, up to
        a constant per pixel, which no softmax sees. Exponentials beyond the range of float32 (infinity, and NaN
        where it was resized) become its ends.

        Args:
            scores: (B, K, H, W), the output of `scores`, resized or not.

        Returns:
            (B, K, H, W) float32, a new tensor.
        """
        if self.fusion == "logits":
            return scores.float() / len(self.scales)
        low, high = _LOG_RANGE
        return scores.float().log().nan_to_num_(nan=high, posinf=high, neginf=low)

    def probabilities(self, scores: Tensor, temperature: float = 1.0) -> Tensor:
        """Class probabilities of each pixel; the most probable class is the one with the largest score.

        Args:
            scores: As for `fused_logits`.
            temperature: Divides the logits (Guo et al. 2017); above 1, probabilities are less extreme.

        Returns:
            (B, K, H, W) float32, which sum to 1 over the classes.
        """
        exponentials = self.fused_logits(scores).div_(temperature)  # one tensor, as it may take gigabytes
        exponentials.sub_(exponentials.amax(1, keepdim=True)).exp_()
        return exponentials.div_(exponentials.sum(1, keepdim=True))


def check_temperature(temperature: float) -> None:
    """Raises a `ConfigError` unless the temperature of probabilities is a number from 0.001 to 1000."""
    require(is_number(temperature, 1e-3) and temperature <= 1e3, "temperature", temperature, "0.001 to 1000")


_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_FIXED = {
    "whole": Protocol(),
    "cityscapes": Protocol(
        _SCALES,
        base_size=2048,
        flip=True,
        fusion="exp",
        window=(1024, 2048),
        last_window="shift",
        whole_up_to=1.0,
    ),
    "lip": Protocol(flip=True, fusion="exp"),
}
_OF_CROPS = ("slide", "pascal_context")


def score_images(
    outputs_of: Callable[[Tensor], Mapping[str, Tensor]],
    images: Tensor,
    protocol: Protocol,
    *,
    align_corners: bool = False,
    flip_permutation: Sequence[int] | None = None,
    black: Tensor | float = 0.0,
    upsampled: bool = True,
) -> Iterator[dict[str, Tensor]]:
    """Computes class scores under a protocol, image by image, as full-size scores of a batch take too much memory.

    Args:
        outputs_of: The network: maps images (N, C, h, w) to its outputs by name, the logits (N, K, h', w') under "out".
        images: (B, C, H, W) float, normalised.
        protocol: The protocol.
        align_corners: As for `Protocol.scores`.
        flip_permutation: As for `Protocol.scores`.
        black: As for `Protocol.scores`.
        upsampled: Whether scores have the images' size; otherwise those of a plain protocol have the network's own.

    Yields:
        For each image its scores (1, K, H, W) under "out"; under a plain protocol also the other outputs, for losses.
    """
    if protocol.is_plain:
        outputs = dict(outputs_of(images))
    else:
        scores = protocol.scores(
            lambda views: outputs_of(views)["out"],
            images,
            align_corners=align_corners,
            flip_permutation=flip_permutation,
            black=black,
        )
        outputs = {"out": scores}
    for index in range(len(images)):
        of_image = {name: output[index : index + 1] for name, output in outputs.items()}
        if upsampled:
            of_image["out"] = upsample(of_image["out"], images.shape[-2:], align_corners)
        yield of_image


def named_protocol(name: str, crop_size: tuple[int, int] | None = None) -> Protocol:
    """Returns a protocol by name.

    Args:
        name: "whole"; "slide", windows of the crop size with a stride of two thirds; or one of the HRNet papers:
            "cityscapes" and "pascal_context" (multi-scale, flipping) or "lip" (flipping).
        crop_size: (height, width) of the training crops, the window of "slide" and "pascal_context".

    Raises:
        UnknownNameError: There is no protocol of that name.
        ConfigError: The protocol needs a crop size.

    Source:
        HRNet-Semantic-Segmentation: tools/test.py, TEST of experiments/*/*.yaml, and multi_scale_inference of
        lib/datasets. For PASCAL-Context the code tests at seven scales, the paper speaks of six.
    """
    if name not in (*_FIXED, *_OF_CROPS):
        raise UnknownNameError("protocol", name, (*_FIXED, *_OF_CROPS))
    if name in _FIXED:
        return _FIXED[name]
    if crop_size is None:
        raise ConfigError(f"protocol {name} takes windows of the crop size; give crop_size")
    slide = Protocol(window=crop_size, stride=(crop_size[0] * 2 // 3, crop_size[1] * 2 // 3))
    if name == "slide":
        return slide
    return replace(slide, scales=(*_SCALES, 2.0), base_size=520, flip=True, fusion="exp")
