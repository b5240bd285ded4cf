from .catalog import MODELS as MODELS, ModelInfo as ModelInfo, list_models as list_models
from .convert import convert_weights as convert_weights
from .cpu import optimize_for_cpu as optimize_for_cpu
from .factory import create_model as create_model
from .fused import fuse_for_cpu as fuse_for_cpu
from .hub import from_pretrained as from_pretrained, push_to_hub as push_to_hub, save_pretrained as save_pretrained
from .networks.base import Network as Network, Segmenter as Segmenter, outputs_of as outputs_of
from .networks.classifier import HRNetClassifier as HRNetClassifier
from .networks.folding import fold_batch_norm as fold_batch_norm
from .networks.hmsa import HRNetV2OCRMultiScale as HRNetV2OCRMultiScale
from .networks.hrformer import (
    HRFORMER_VARIANTS as HRFORMER_VARIANTS,
    HRFormer as HRFormer,
    HRFormerClassifier as HRFormerClassifier,
    HRFormerOCR as HRFormerOCR,
    HRFormerVariant as HRFormerVariant,
)
from .networks.hrnet import VARIANTS as VARIANTS, HRNet as HRNet, HRNetVariant as HRNetVariant
from .networks.hrnetv1 import HRNetV1 as HRNetV1
from .networks.hrnetv2 import HRNetV2 as HRNetV2, V2Head as V2Head
from .networks.hrnetv2p import HRNetV2p as HRNetV2p
from .networks.ocr import HRNetV2OCR as HRNetV2OCR
from .networks.psa import PSA_BLOCKS as PSA_BLOCKS
from .registry import register as register
from .weights.file import open_weights as open_weights
from .weights.load import LoadReport as LoadReport, load_weights as load_weights
from .weights.save import save_weights as save_weights
