"""The forward pass of one image in evaluation mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from experiments.benchmarks.interleaved import (
    HRSEG,
    Row,
    compare,
    default_device,
    require_close,
    time_interleaved,
    torch_threads,
)
from experiments.benchmarks.settled import in_nchw, settled
from hrseg import CITYSCAPES
from hrseg.inference import Predictor
from hrseg.models import create_model

NCHW = "the same network in NCHW"
PLAIN = "the same network as create_model returns it"
SPEEDUPS = {"hrnetv2_w18": 1.6, "hrnetv2_w48": 1.25}  # targets over NCHW on a CPU


def measure_forward(
    repeats: int = 10,
    threads: int = 2,
    size: tuple[int, int] = (512, 1024),
    speedups: Mapping[str, float] = SPEEDUPS,
) -> list[Row]:
    """Times networks as `Predictor` runs them against the same networks in the default memory format.

    HRNetV2-W18 is also compared with the HRNet-W18 of timm and of segmentation-models-pytorch, as these build it.

    Args:
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch.
        size: (height, width) of the image.
        speedups: Target over NCHW, by network.
    """
    rows = []
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(default_device())
    with torch_threads(threads), torch.inference_mode():
        for name, speedup in speedups.items():
            peers = _peers(images) if name == "hrnetv2_w18" else {}
            costs = time_interleaved(_sides(name, images) | peers, repeats)
            rows += compare("forward", f"{name} 1x3x{size[0]}x{size[1]}", costs, {NCHW: speedup})
    return rows


def _sides(name: str, images: Tensor) -> dict[str, Callable[[], object]]:
    plain = settled(create_model(name, init="kaiming"), images)
    ours = Predictor(copy.deepcopy(plain), CITYSCAPES).network
    channels_last = images.contiguous(memory_format=torch.channels_last)  # as `Predictor` reads an image
    official = in_nchw(plain)
    require_close(ours(channels_last), official(images))
    return {HRSEG: lambda: ours(channels_last), NCHW: lambda: official(images), PLAIN: lambda: plain(images)}


def _peers(images: Tensor) -> dict[str, Callable[[], object]]:
    # both take seconds to import
    import segmentation_models_pytorch as smp
    import timm

    backbone = settled(timm.create_model("hrnet_w18", features_only=True), images)
    fpn = settled(smp.FPN("tu-hrnet_w18", encoder_weights=None, classes=19), images)
    return {"timm hrnet_w18, features only": lambda: backbone(images), "SMP FPN(tu-hrnet_w18)": lambda: fpn(images)}
