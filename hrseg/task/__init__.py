"""`SegmentationTask`, the LightningModule."""

from hrseg.task.segmentation import SegmentationTask

__all__ = ["SegmentationTask"]
