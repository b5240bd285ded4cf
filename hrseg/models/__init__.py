"""The networks: torch only; nothing here knows of Lightning or of data sets.

Names are imported when they are first used, so that `hrseg.models.catalog` can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrseg.models.catalog import MODELS, ModelInfo, list_models
    from hrseg.models.factory import create_model
    from hrseg.models.folding import fold_batch_norm
    from hrseg.models.heads import V2Head
    from hrseg.models.hrnet import VARIANTS, HRNet, HRNetVariant, resize
    from hrseg.models.segmenter import HRNetV2, Segmenter, outputs_of
    from hrseg.models.weights import LoadReport, load_weights, save_weights

__all__ = [
    "MODELS",
    "VARIANTS",
    "HRNet",
    "HRNetV2",
    "HRNetVariant",
    "LoadReport",
    "ModelInfo",
    "Segmenter",
    "V2Head",
    "create_model",
    "fold_batch_norm",
    "list_models",
    "load_weights",
    "outputs_of",
    "resize",
    "save_weights",
]

_HOMES = {
    "catalog": ("MODELS", "ModelInfo", "list_models"),
    "factory": ("create_model",),
    "folding": ("fold_batch_norm",),
    "heads": ("V2Head",),
    "hrnet": ("VARIANTS", "HRNet", "HRNetVariant", "resize"),
    "segmenter": ("HRNetV2", "Segmenter", "outputs_of"),
    "weights": ("LoadReport", "load_weights", "save_weights"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
