"""`SegmentationTask`, the LightningModule: its steps, its checks and its checkpoints."""

from hrseg.task.segmentation import SegmentationTask

__all__ = ["SegmentationTask"]
