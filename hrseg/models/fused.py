"""Inference on a CPU with convolution, sum and activation in one oneDNN call; `fuse_for_cpu` swaps the layers in.

The calls are those that torch.compile emits (torch/_inductor/fx_passes/mkldnn_fusion.py). They are not public: where a
release of torch lacks them or has changed them, the layers compute the same in separate steps. Weights are not packed
in advance: a format chosen for one size of images was up to ten times slower at another, and saved 1 % at its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.models.cpu import SplitSpatialOCR, SplitV2Head
from hrseg.models.networks.hrformer import FeedForward
from hrseg.models.networks.hrnet import BasicBlock, Bottleneck, HighResolutionModule, HRNet, Maps
from hrseg.models.networks.hrnetv2 import V2Head
from hrseg.models.networks.ocr import SpatialOCR
from hrseg.models.networks.psa import PSABlock
from hrseg.utils.upsample import upsample

Network = TypeVar("Network", bound=nn.Module)

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": lambda x: F.relu(x, inplace=True),
    "gelu": F.gelu,
}


def fuse_for_cpu(network: Network) -> Network:
    """Swaps layers of a network, in place, for ones that need fewer passes over memory in inference on a CPU.

    Args:
        network: A network of hrseg without batch norm, as `fold_batch_norm` returns it. It cannot be trained
            afterwards.

    Returns:
        The network, with the same results but for rounding.
    """
    network.eval().requires_grad_(False)
    for module in network.modules():  # parents first
        fused = _LAYERS.get(type(module))
        if fused is not None and (not issubclass(fused, _Fused) or fused.fits(module)):
            module.__class__ = fused
    for module in list(network.modules()):
        if isinstance(module, _Fused):
            module.prepare()
        elif type(module) is nn.Sequential:
            _activate_in_sequence(module)
        elif isinstance(module, HRNet) and {type(module.conv1), type(module.conv2)} == {FusedConv2d}:
            _activate("relu", module.conv1, module.conv2)
            module.relu = nn.Identity()
    return network


class FusedConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` followed by an activation.

    Attributes:
        activation: "none", "relu" or "gelu".
    """

    activation = "none"

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, in_channels, h, w) to (B, out_channels, h', w')."""
        if not self._is_fused(input):
            return _ACTIVATIONS[self.activation](super().forward(input))
        return self.call(input)

    def add_to(self, total: Tensor, input: Tensor, in_place: bool = True) -> Tensor:
        """Adds the convolution of `input` to `total`, and applies the activation, "none" or "relu".

        Args:
            total: (B, out_channels, h', w').
            input: (B, in_channels, h, w).
            in_place: Whether `total` may be overwritten, which saves memory.
        """
        if not self._is_fused(input):
            out = super().forward(input)
            return _ACTIVATIONS[self.activation](total.add_(out) if in_place else out.add_(total))
        return self.call_to_add(total, input, in_place)

    def call(self, x: Tensor) -> Tensor:
        """`forward` in one call."""
        algorithm = "none" if self.activation == "gelu" else ""  # "none" is exact, "tanh" the approximation
        op = torch.ops.mkldnn._convolution_pointwise.default
        out: Tensor = op(x, *self._arguments(), self.activation, [], algorithm)
        return out

    def call_to_add(self, total: Tensor, x: Tensor, in_place: bool) -> Tensor:
        """`add_to` in one call."""
        activation = None if self.activation == "none" else self.activation
        arguments = *self._arguments(), "add", None, activation, [], None
        ops = torch.ops.mkldnn
        out: Tensor = (
            ops._convolution_pointwise_.binary(total, x, *arguments)
            if in_place
            else ops._convolution_pointwise.binary(x, total, *arguments)
        )
        return out

    def _is_fused(self, x: Tensor) -> bool:
        is_padded_by_zeros = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        same_type = x.device.type == "cpu" and x.dtype == self.weight.dtype and not torch.is_autocast_enabled("cpu")
        return is_padded_by_zeros and same_type and has_fused_convolutions(x.dtype)

    def _arguments(self) -> tuple[Any, ...]:
        return self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups


@cache
def has_fused_convolutions(dtype: torch.dtype) -> bool:
    """Whether this release of torch has the calls, and they compute on this CPU what is expected of them."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    x, total = (torch.randn(1, channels, 6, 5, generator=generator) for channels in (3, 4))
    conv = FusedConv2d(3, 4, 3, padding=1)
    for parameter in conv.parameters():
        nn.init.uniform_(parameter, -0.3, 0.3, generator=generator)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    with torch.inference_mode():
        plain = F.conv2d(x, conv.weight, conv.bias, padding=1)
        conv.to(dtype)
        x, rounded = (maps.to(dtype).contiguous(memory_format=torch.channels_last) for maps in (x, total))
        for name, activation in _ACTIVATIONS.items():
            conv.activation = name
            calls = [(partial(conv.call, x), plain)]
            if name != "gelu":
                calls += [(partial(conv.call_to_add, rounded.clone(), x, way), plain + total) for way in (False, True)]
            for call, expected in calls:
                try:
                    found = call().float()
                except (AttributeError, RuntimeError, TypeError):  # removed, not for this CPU, or other arguments
                    return False
                if not torch.allclose(found, activation(expected.clone()), tolerance, tolerance):
                    return False
    return True


_BLOCK: dict[str, type[nn.Module]] = {"conv1": nn.Conv2d, "bn1": nn.Identity, "conv2": nn.Conv2d, "bn2": nn.Identity}


class _Fused(nn.Module):
    """A layer whose convolutions are `FusedConv2d`.

    Attributes:
        parts: Classes of the parts of a layer that this class can replace: as it was built, without batch norm.
    """

    parts: ClassVar[dict[str, type[nn.Module]]] = {}

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """Whether no part of a layer was replaced by another, so that this class can take its place."""
        return all(type(module.get_submodule(name)) is kind for name, kind in cls.parts.items())

    def prepare(self) -> None:
        """Gives the convolutions their activations, or replaces them by others."""


class FusedBasicBlock(_Fused, BasicBlock):
    """`BasicBlock` in two calls.

    Attributes:
        in_place: Whether the result may take the place of the input.
    """

    conv2: FusedConv2d
    in_place = False
    parts: ClassVar = _BLOCK

    def prepare(self) -> None:
        """Gives the convolutions their activations."""
        _activate("relu", self.conv1, self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, width, h, w) to the same shape."""
        return self.conv2.add_to(x, self.conv1(x), self.in_place)


class FusedPSABlock(_Fused, PSABlock):
    """`PSABlock` with its convolutions in two calls; for `in_place` see `FusedBasicBlock`."""

    conv2: FusedConv2d
    in_place = False
    parts: ClassVar = _BLOCK

    def prepare(self) -> None:
        """Gives the convolutions their activations."""
        _activate("relu", self.conv1, self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, width, h, w) to the same shape."""
        return self.conv2.add_to(x, self.deattn(self.conv1(x)), self.in_place)


class FusedBottleneck(_Fused, Bottleneck):
    """`Bottleneck` in three calls, and one for the projection; for `in_place` see `FusedBasicBlock`."""

    conv3: FusedConv2d
    in_place = False
    parts: ClassVar = _BLOCK | {"conv3": nn.Conv2d, "bn3": nn.Identity}

    def prepare(self) -> None:
        """Gives the convolutions their activations."""
        _activate("relu", self.conv1, self.conv2, self.conv3)
        self.in_place |= not isinstance(self.downsample, nn.Identity)  # the projection may be overwritten

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, h, w) to (B, 4 * width, h, w)."""
        return self.conv3.add_to(self.downsample(x), self.conv2(self.conv1(x)), self.in_place)


class FusedFeedForward(_Fused, FeedForward):
    """`FeedForward` in three calls."""

    parts: ClassVar = {f"norm{n}": nn.Identity for n in (1, 2, 3)} | dict.fromkeys(("fc1", "dw3x3", "fc2"), nn.Conv2d)

    def prepare(self) -> None:
        """Gives the convolutions their activations."""
        _activate("gelu", self.fc1, self.dw3x3, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, width, h, w) to the same shape."""
        out: Tensor = self.fc2(self.dw3x3(self.fc1(x)))
        return out


class FusedModule(_Fused, HighResolutionModule):
    """`HighResolutionModule` that adds upsampled maps, then in place convolutions, the last one with ReLU."""

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """Whether no part of the fusion was replaced by another."""
        parts = (nn.ModuleList, nn.Sequential, nn.Conv2d, nn.Identity, nn.ReLU)
        return all(type(part) in parts for part in module.get_submodule("fuse_layers").modules())

    def prepare(self) -> None:
        """Gives the last convolution of each sum the ReLU of the sum."""
        for target in range(1, len(self.fuse_layers)):
            _activate("relu", self._downsampling(target, target - 1)[-1])

    def _downsampling(self, target: int, source: int) -> list[nn.Module]:
        """The convolutions from a finer branch."""
        layers = self.fuse_layers[target]
        assert isinstance(layers, nn.ModuleList)
        return [module for module in layers[source].modules() if isinstance(module, nn.Conv2d)]

    def _fuse(self, maps: Maps, target: int) -> Tensor:
        total = own = maps[target]
        layers = self.fuse_layers[target]
        assert isinstance(layers, nn.ModuleList)
        for source in range(target + 1, len(maps)):
            term = upsample(layers[source](maps[source]), own.shape[-2:], self.align_corners, self.fuse_mode)
            total = term.add_(total)
        for source in range(target):
            *convolutions, last = self._downsampling(target, source)
            x = maps[source]
            for convolution in convolutions:
                x = convolution(x)
            assert isinstance(last, FusedConv2d)
            total = last.add_to(total, x, in_place=total is not own)
        return total if target > 0 else F.relu(total, inplace=True)


class FusedV2Head(_Fused, V2Head):
    """`V2Head` with its first convolution, if 1x1, applied to each map before upsampling; see `SplitV2Head`."""

    parts: ClassVar = {"0": nn.Conv2d, "1": nn.Identity}

    def prepare(self) -> None:
        """Splits the first convolution by the maps that it reads."""
        convolution = self[0]
        assert isinstance(convolution, FusedConv2d)
        _activate_in_sequence(self)
        if convolution.kernel_size == (1, 1):
            self[0] = nn.ModuleList(_split(convolution, self.widths, last=0))

    def forward(self, maps: Maps) -> Tensor:
        """Maps (B, C * 2**k, h / 2**k, w / 2**k), finest first, to logits (B, K, h, w)."""
        if not isinstance(self[0], nn.ModuleList):
            return super().forward(maps)
        finest, *coarser = maps
        convolution, *convolutions = self[0]
        assert isinstance(convolution, FusedConv2d)
        size = finest.shape[-2:]
        total = upsample(convolutions[0](coarser[0]), size, self.align_corners)
        for convolve, x in zip(convolutions[1:], coarser[1:], strict=True):
            total += upsample(convolve(x), size, self.align_corners)  # without a name, so that it is freed at once
        logits: Tensor = self[-1](convolution.add_to(total, finest))
        return logits


class FusedSpatialOCR(_Fused, SpatialOCR):
    """`SpatialOCR` with its convolution of [context, pixels] as the sum of two."""

    parts: ClassVar = {"conv_bn_dropout.0": nn.Conv2d}

    def prepare(self) -> None:
        """Splits the convolution."""
        _activate_in_sequence(self.conv_bn_dropout)
        convolution, *layers = self.conv_bn_dropout
        assert isinstance(convolution, FusedConv2d)
        self.for_context, self.for_pixels = _split(convolution, [convolution.in_channels // 2] * 2, last=1)
        self.conv_bn_dropout = nn.Sequential(*layers)

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Maps pixels (B, mid, h, w) and regions (B, mid, K, 1) to (B, mid, h, w)."""
        context = self.for_context(self.object_context_block(pixels, regions))
        out: Tensor = self.conv_bn_dropout(self.for_pixels.add_to(context, pixels))
        return out


_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: FusedConv2d,
    BasicBlock: FusedBasicBlock,
    PSABlock: FusedPSABlock,
    Bottleneck: FusedBottleneck,
    FeedForward: FusedFeedForward,
    HighResolutionModule: FusedModule,
    V2Head: FusedV2Head,
    SplitV2Head: FusedV2Head,
    SpatialOCR: FusedSpatialOCR,
    SplitSpatialOCR: FusedSpatialOCR,
}
_BLOCKS = FusedBasicBlock, FusedPSABlock, FusedBottleneck


def _activate(activation: str, *convolutions: nn.Module) -> None:
    for convolution in convolutions:
        assert isinstance(convolution, FusedConv2d)
        convolution.activation = activation


def _activate_in_sequence(layers: nn.Sequential) -> None:
    """Gives each convolution the ReLU that follows it, and lets blocks overwrite what a layer before them made."""
    for (_, _, layer), (parent, name, following) in pairwise(_flat(layers)):
        if isinstance(layer, FusedConv2d) and type(following) is nn.ReLU:
            layer.activation = "relu"
            setattr(parent, name, nn.Identity())
        elif isinstance(following, _BLOCKS) and isinstance(layer, (FusedConv2d, *_BLOCKS)):
            following.in_place = True


def _flat(layers: nn.Sequential) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and layer of all that do something, in nested sequences too."""
    for name, layer in layers.named_children():
        if type(layer) is nn.Sequential:
            yield from _flat(layer)
        elif not isinstance(layer, nn.Identity | nn.Dropout2d):
            yield layers, name, layer


def _split(convolution: FusedConv2d, widths: Sequence[int], last: int) -> list[FusedConv2d]:
    """Splits a 1x1 convolution by its input channels; part `last` has its bias and activation. The results add up."""
    parts = []
    for index, weight in enumerate(torch.split(convolution.weight, list(widths), dim=1)):
        part = FusedConv2d(weight.shape[1], weight.shape[0], 1, bias=False)
        part.weight = nn.Parameter(weight.clone(), requires_grad=False)
        if index == last:
            part.bias, part.activation = convolution.bias, convolution.activation
        parts.append(part)
    return parts
