"""The networks: torch only; nothing here knows of Lightning or of data sets.

Names are imported when they are first used, so that `hrseg.models.catalog` can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrseg.models.catalog import MODELS, ModelInfo, list_models
    from hrseg.models.factory import create_model
    from hrseg.models.networks.base import Network
    from hrseg.models.networks.folding import fold_batch_norm
    from hrseg.models.networks.heads import V2Head
    from hrseg.models.networks.hmsa import HRNetV2OCRMultiScale
    from hrseg.models.networks.hrformer import (
        HRFORMER_VARIANTS,
        HRFormer,
        HRFormerClassifier,
        HRFormerOCR,
        HRFormerVariant,
    )
    from hrseg.models.networks.hrnet import VARIANTS, HRNet, HRNetVariant, resize
    from hrseg.models.networks.hrnetv2 import HRNetV2, Segmenter, outputs_of
    from hrseg.models.networks.ocr import HRNetV2OCR
    from hrseg.models.networks.psa import PSA_BLOCKS
    from hrseg.models.networks.representations import HRNetClassifier, HRNetV1, HRNetV2p
    from hrseg.models.weights.convert import convert_weights
    from hrseg.models.weights.file import open_weights
    from hrseg.models.weights.load import LoadReport, load_weights, save_weights

__all__ = [
    "HRFORMER_VARIANTS",
    "MODELS",
    "PSA_BLOCKS",
    "VARIANTS",
    "HRFormer",
    "HRFormerClassifier",
    "HRFormerOCR",
    "HRFormerVariant",
    "HRNet",
    "HRNetClassifier",
    "HRNetV1",
    "HRNetV2",
    "HRNetV2OCR",
    "HRNetV2OCRMultiScale",
    "HRNetV2p",
    "HRNetVariant",
    "LoadReport",
    "ModelInfo",
    "Network",
    "Segmenter",
    "V2Head",
    "convert_weights",
    "create_model",
    "fold_batch_norm",
    "list_models",
    "load_weights",
    "open_weights",
    "outputs_of",
    "resize",
    "save_weights",
]

_HOMES = {
    "weights.convert": ("convert_weights",),
    "weights.file": ("open_weights",),
    "catalog": ("MODELS", "ModelInfo", "list_models"),
    "factory": ("create_model",),
    "networks.folding": ("fold_batch_norm",),
    "networks.heads": ("V2Head",),
    "networks.hrformer": ("HRFORMER_VARIANTS", "HRFormer", "HRFormerClassifier", "HRFormerOCR", "HRFormerVariant"),
    "networks.hrnet": ("VARIANTS", "HRNet", "HRNetVariant", "resize"),
    "networks.hmsa": ("HRNetV2OCRMultiScale",),
    "networks.base": ("Network",),
    "networks.ocr": ("HRNetV2OCR",),
    "networks.psa": ("PSA_BLOCKS",),
    "networks.representations": ("HRNetClassifier", "HRNetV1", "HRNetV2p"),
    "networks.hrnetv2": ("HRNetV2", "Segmenter", "outputs_of"),
    "weights.load": ("LoadReport", "load_weights", "save_weights"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
