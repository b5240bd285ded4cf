"""Losses: logits and target in, a scalar out.

A new loss is one file: a subclass of `SegmentationLoss` with a `compute` method; recipes name it by its class path.
"""

from hrseg.losses.base import Criterion, LossReduction, SegmentationLoss
from hrseg.losses.cross_entropy import CrossEntropyLoss
from hrseg.losses.module_loss import ModuleLoss
from hrseg.losses.ohem import OhemCrossEntropyLoss
from hrseg.losses.outputs import SumLoss, WeightedOutputsLoss
from hrseg.losses.rmi import RMILoss
from hrseg.losses.smp import SmpLoss

__all__ = [
    "Criterion",
    "CrossEntropyLoss",
    "LossReduction",
    "ModuleLoss",
    "OhemCrossEntropyLoss",
    "RMILoss",
    "SegmentationLoss",
    "SmpLoss",
    "SumLoss",
    "WeightedOutputsLoss",
]
