from .datamodule import StreetScenesDataModule as StreetScenesDataModule
from .files import write_scenes as write_scenes
from .scene import Scene as Scene, generate_scene as generate_scene
