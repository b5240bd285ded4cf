"""Segmentation scores: functions of a confusion matrix, and torchmetrics that accumulate it."""

from hrseg.metrics.boundary import BoundaryScores
from hrseg.metrics.calibration import CalibrationScores, Reliability, TemperatureFit
from hrseg.metrics.confusion import (
    accuracy_per_class,
    category_iou,
    confusion_matrix,
    frequency_weighted_iou,
    iou_per_class,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)
from hrseg.metrics.segmentation import SegmentationMetrics

__all__ = [
    "BoundaryScores",
    "CalibrationScores",
    "Reliability",
    "SegmentationMetrics",
    "TemperatureFit",
    "accuracy_per_class",
    "category_iou",
    "confusion_matrix",
    "frequency_weighted_iou",
    "iou_per_class",
    "mean_accuracy",
    "mean_iou",
    "pixel_accuracy",
]
