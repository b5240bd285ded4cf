"""Networks with random weights whose activations keep their magnitude."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def settled(network: nn.Module, images: Tensor) -> nn.Module:
    """Sets the statistics of batch norm to those of the images.

    Random weights would otherwise shrink or amplify activations layer by layer, down to denormals, which are slow.
    """
    network.to(images.device)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(images)
    return network.eval()
