"""Networks to compare with: random weights whose activations keep their magnitude, in NCHW as in the official code."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from hrseg.models.networks.hrnet import HRNet

Network = TypeVar("Network", bound=nn.Module)


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


def in_nchw(network: Network) -> Network:
    """Copies a network so that it computes in NCHW, into which it would not bring images itself on a CPU."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, HRNet):
            module.conv1.register_forward_pre_hook(lambda _, arguments: (arguments[0].contiguous(),))
    return network
