from .checkpoint import Checkpoint as Checkpoint, read_checkpoint as read_checkpoint
from .predictor import Prediction as Prediction, Predictor as Predictor
from .preprocess import (
    IMAGENET_MEAN as IMAGENET_MEAN,
    IMAGENET_STD as IMAGENET_STD,
    check_normalization as check_normalization,
    normalize as normalize,
)
from .protocol import Protocol as Protocol, named_protocol as named_protocol, score_images as score_images
from .sliding import sliding_window as sliding_window
from .writer import write_prediction as write_prediction, written_files as written_files
