from .base import SegmentationDataModule as SegmentationDataModule
from .dataset import Sample as Sample, SegmentationDataset as SegmentationDataset
from .labels import LabelTable as LabelTable
from .transforms import HorizontalFlip as HorizontalFlip, RandomScaleCrop as RandomScaleCrop
