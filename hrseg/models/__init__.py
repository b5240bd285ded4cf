"""The networks: torch only; nothing here knows of Lightning or of data sets.

Names are imported when they are first used, so that `hrseg.models.catalog` can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrseg.models.catalog import MODELS, ModelInfo, list_models
    from hrseg.models.convert import convert_weights
    from hrseg.models.factory import create_model
    from hrseg.models.folding import fold_batch_norm
    from hrseg.models.heads import V2Head
    from hrseg.models.hrformer import HRFORMER_VARIANTS, HRFormer, HRFormerClassifier, HRFormerOCR, HRFormerVariant
    from hrseg.models.hrnet import VARIANTS, HRNet, HRNetVariant, resize
    from hrseg.models.multiscale import HRNetV2OCRMultiScale
    from hrseg.models.network import Network
    from hrseg.models.ocr import HRNetV2OCR
    from hrseg.models.psa import PSA_BLOCKS
    from hrseg.models.representations import HRNetClassifier, HRNetV1, HRNetV2p
    from hrseg.models.segmenter import HRNetV2, Segmenter, outputs_of
    from hrseg.models.weights import LoadReport, load_weights, save_weights
    from hrseg.models.weights_file import open_weights

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
    "convert": ("convert_weights",),
    "weights_file": ("open_weights",),
    "catalog": ("MODELS", "ModelInfo", "list_models"),
    "factory": ("create_model",),
    "folding": ("fold_batch_norm",),
    "heads": ("V2Head",),
    "hrformer": ("HRFORMER_VARIANTS", "HRFormer", "HRFormerClassifier", "HRFormerOCR", "HRFormerVariant"),
    "hrnet": ("VARIANTS", "HRNet", "HRNetVariant", "resize"),
    "multiscale": ("HRNetV2OCRMultiScale",),
    "network": ("Network",),
    "ocr": ("HRNetV2OCR",),
    "psa": ("PSA_BLOCKS",),
    "representations": ("HRNetClassifier", "HRNetV1", "HRNetV2p"),
    "segmenter": ("HRNetV2", "Segmenter", "outputs_of"),
    "weights": ("LoadReport", "load_weights", "save_weights"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
