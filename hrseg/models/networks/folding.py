"""Folding of batch norm into the preceding convolutions, which saves one memory pass per layer."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(network: Network) -> Network:
    """Copies a network with every batch norm folded into its convolution, for inference only.

    Each batch norm must be registered right after its convolution, or be the first layer of a sequence there, as in all
    networks of hrseg.

    Args:
        network: Not changed; its running statistics are folded.

    Returns:
        A copy in evaluation mode with the same results but for rounding. It cannot be trained, and its keys are not the
        official ones.
    """
    folded = copy.deepcopy(network).eval()
    for parent in list(folded.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            place: nn.Module = parent
            if isinstance(norm, nn.Sequential) and len(norm) > 0:
                place, norm_name, norm = norm, "0", norm[0]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(place, norm_name, nn.Identity())
    return folded
