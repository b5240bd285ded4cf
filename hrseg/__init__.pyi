__version__: str

from .data import (
    CamVidDataModule as CamVidDataModule,
    CityscapesDataModule as CityscapesDataModule,
    FolderDataModule as FolderDataModule,
    LabelTable as LabelTable,
    LIPDataModule as LIPDataModule,
    PascalContextDataModule as PascalContextDataModule,
    SegmentationDataModule as SegmentationDataModule,
    StreetScenesDataModule as StreetScenesDataModule,
)
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
