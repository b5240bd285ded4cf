"""From a trained network to label maps and their files."""

from hrseg.inference.predictor import Predictor
from hrseg.inference.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalize
from hrseg.inference.protocol import Protocol, at_size, named_protocol
from hrseg.inference.sliding import sliding_window
from hrseg.inference.writer import write_prediction

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Predictor",
    "Protocol",
    "at_size",
    "named_protocol",
    "normalize",
    "sliding_window",
    "write_prediction",
]
