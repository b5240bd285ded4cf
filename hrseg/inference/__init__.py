"""From a trained network to label maps and their files."""

from hrseg.inference.predictor import Predictor
from hrseg.inference.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalize
from hrseg.inference.writer import write_prediction

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Predictor", "normalize", "write_prediction"]
