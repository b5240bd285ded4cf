"""Batch norm folded into the convolutions before it: the same results with one pass over memory less a layer."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(network: Network) -> Network:
    """Copies a network with every batch norm folded into its convolution, for inference alone.

    A batch norm belongs to the convolution that was registered just before it, which holds for all networks of hrseg.

    Args:
        network: Left as it is. Its running statistics are what is folded.

    Returns:
        A copy in evaluation mode whose results equal the network's but for rounding. It cannot be trained, and its
        entries no longer carry the official names.
    """
    folded = copy.deepcopy(network).eval()
    for parent in list(folded.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return folded
