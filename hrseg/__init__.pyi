__version__: str

from .data import LabelTable as LabelTable, SegmentationDataModule as SegmentationDataModule
from .data.datasets.ade20k import ADE20K as ADE20K
from .data.datasets.camvid import CAMVID as CAMVID, CamVidDataModule as CamVidDataModule
from .data.datasets.cityscapes import CITYSCAPES as CITYSCAPES, CityscapesDataModule as CityscapesDataModule
from .data.datasets.coco_stuff import COCO_STUFF as COCO_STUFF
from .data.datasets.folder import FolderDataModule as FolderDataModule
from .data.datasets.lip import LIP as LIP, LIPDataModule as LIPDataModule
from .data.datasets.pascal_context import (
    PASCAL_CONTEXT_59 as PASCAL_CONTEXT_59,
    PASCAL_CONTEXT_60 as PASCAL_CONTEXT_60,
    PascalContextDataModule as PascalContextDataModule,
)
from .data.datasets.street_scenes import StreetScenesDataModule as StreetScenesDataModule
from .data.tools.verify import verify as verify
from .errors import HrsegError as HrsegError
from .inference import Predictor as Predictor
from .models import (
    Network as Network,
    create_model as create_model,
    from_pretrained as from_pretrained,
    list_models as list_models,
    load_weights as load_weights,
    push_to_hub as push_to_hub,
    register as register,
    save_pretrained as save_pretrained,
    save_weights as save_weights,
)
from .run.fit import fit as fit
from .task import SegmentationTask as SegmentationTask
