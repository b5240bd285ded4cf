"""Semantic segmentation with the HRNet family on PyTorch Lightning.

The names below are loaded when they are first used: `import hrseg` alone imports neither torch nor Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrseg.data import (
        CamVidDataModule,
        CityscapesDataModule,
        FolderDataModule,
        LabelTable,
        LIPDataModule,
        PascalContextDataModule,
        SegmentationDataModule,
        StreetScenesDataModule,
    )
    from hrseg.data.tools.verify import verify
    from hrseg.errors import HrsegError
    from hrseg.inference import Predictor
    from hrseg.models import Network, create_model, list_models, load_weights, save_weights
    from hrseg.run.fit import fit
    from hrseg.task import SegmentationTask

__version__ = "0.1.0"

_HOMES = {
    "hrseg.data": (
        "CamVidDataModule",
        "CityscapesDataModule",
        "FolderDataModule",
        "LIPDataModule",
        "LabelTable",
        "PascalContextDataModule",
        "SegmentationDataModule",
        "StreetScenesDataModule",
    ),
    "hrseg.data.tools.verify": ("verify",),
    "hrseg.errors": ("HrsegError",),
    "hrseg.inference": ("Predictor",),
    "hrseg.models": ("Network", "create_model", "list_models", "load_weights", "save_weights"),
    "hrseg.task": ("SegmentationTask",),
    "hrseg.run.fit": ("fit",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CamVidDataModule",
    "CityscapesDataModule",
    "FolderDataModule",
    "HrsegError",
    "LIPDataModule",
    "LabelTable",
    "Network",
    "PascalContextDataModule",
    "Predictor",
    "SegmentationDataModule",
    "SegmentationTask",
    "StreetScenesDataModule",
    "create_model",
    "fit",
    "list_models",
    "load_weights",
    "save_weights",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'hrseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
