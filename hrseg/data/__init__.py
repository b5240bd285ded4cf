"""Data sets: label tables, files to samples, samples to batches.

The names below are loaded when they are first used, so that reading a label table imports neither torch nor Lightning.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrseg.data.base import SegmentationDataModule
    from hrseg.data.dataset import Sample, SegmentationDataset
    from hrseg.data.datasets.camvid import CAMVID, CamVidDataModule
    from hrseg.data.datasets.cityscapes import CITYSCAPES, CityscapesDataModule
    from hrseg.data.datasets.folder import FolderDataModule
    from hrseg.data.datasets.lip import LIP, LIPDataModule
    from hrseg.data.datasets.pascal_context import PASCAL_CONTEXT_59, PASCAL_CONTEXT_60, PascalContextDataModule
    from hrseg.data.datasets.street_scenes import StreetScenesDataModule
    from hrseg.data.labels import LabelTable
    from hrseg.data.transforms import HorizontalFlip, RandomScaleCrop

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing albumentations would ask the network for a newer one

_HOME_OF = {
    "CAMVID": "hrseg.data.datasets.camvid",
    "CITYSCAPES": "hrseg.data.datasets.cityscapes",
    "CamVidDataModule": "hrseg.data.datasets.camvid",
    "CityscapesDataModule": "hrseg.data.datasets.cityscapes",
    "FolderDataModule": "hrseg.data.datasets.folder",
    "HorizontalFlip": "hrseg.data.transforms",
    "LIP": "hrseg.data.datasets.lip",
    "LIPDataModule": "hrseg.data.datasets.lip",
    "LabelTable": "hrseg.data.labels",
    "PASCAL_CONTEXT_59": "hrseg.data.datasets.pascal_context",
    "PASCAL_CONTEXT_60": "hrseg.data.datasets.pascal_context",
    "PascalContextDataModule": "hrseg.data.datasets.pascal_context",
    "RandomScaleCrop": "hrseg.data.transforms",
    "Sample": "hrseg.data.dataset",
    "SegmentationDataModule": "hrseg.data.base",
    "SegmentationDataset": "hrseg.data.dataset",
    "StreetScenesDataModule": "hrseg.data.datasets.street_scenes",
}

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "LIP",
    "PASCAL_CONTEXT_59",
    "PASCAL_CONTEXT_60",
    "CamVidDataModule",
    "CityscapesDataModule",
    "FolderDataModule",
    "HorizontalFlip",
    "LIPDataModule",
    "LabelTable",
    "PascalContextDataModule",
    "RandomScaleCrop",
    "Sample",
    "SegmentationDataModule",
    "SegmentationDataset",
    "StreetScenesDataModule",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'hrseg.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
