"""From a trained network to label maps and their files."""

from hrseg.inference.checkpoint import Checkpoint, read_checkpoint
from hrseg.inference.predictor import Predictor
from hrseg.inference.preprocess import IMAGENET_MEAN, IMAGENET_STD, check_normalization, normalize
from hrseg.inference.protocol import Protocol, named_protocol, score_images
from hrseg.inference.sliding import sliding_window
from hrseg.inference.writer import write_prediction, written_files

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Checkpoint",
    "Predictor",
    "Protocol",
    "check_normalization",
    "named_protocol",
    "normalize",
    "read_checkpoint",
    "score_images",
    "sliding_window",
    "write_prediction",
    "written_files",
]
