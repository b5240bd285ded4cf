"""Street scenes drawn by the computer, written in the layout of Cityscapes: data for everybody, without a download.

`generate_scene` draws one scene, `write_scenes` a folder of them; `StreetScenesDataModule` trains on such a folder.
The names below are loaded when they are first used: drawing needs neither torch nor Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrseg.data.datasets.street_scenes.datamodule import StreetScenesDataModule
    from hrseg.data.datasets.street_scenes.files import write_scenes
    from hrseg.data.datasets.street_scenes.scene import Scene, generate_scene

_HOME_OF = {
    "Scene": "scene",
    "StreetScenesDataModule": "datamodule",
    "generate_scene": "scene",
    "write_scenes": "files",
}

__all__ = ["Scene", "StreetScenesDataModule", "generate_scene", "write_scenes"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
