from .base import SegmentationDataModule as SegmentationDataModule
from .dataset import Sample as Sample, SegmentationDataset as SegmentationDataset
from .datasets.camvid import CAMVID as CAMVID, CamVidDataModule as CamVidDataModule
from .datasets.cityscapes import CITYSCAPES as CITYSCAPES, CityscapesDataModule as CityscapesDataModule
from .datasets.folder import FolderDataModule as FolderDataModule
from .datasets.lip import LIP as LIP, LIPDataModule as LIPDataModule
from .datasets.pascal_context import (
    PASCAL_CONTEXT_59 as PASCAL_CONTEXT_59,
    PASCAL_CONTEXT_60 as PASCAL_CONTEXT_60,
    PascalContextDataModule as PascalContextDataModule,
)
from .datasets.street_scenes import StreetScenesDataModule as StreetScenesDataModule
from .labels import LabelTable as LabelTable
from .transforms import HorizontalFlip as HorizontalFlip, RandomScaleCrop as RandomScaleCrop
