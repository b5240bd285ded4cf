"""Street scenes drawn by the computer, written in the layout of Cityscapes: data for everybody, without a download.

`generate_scene` draws one scene, `write_scenes` a folder of them; `StreetScenesDataModule` trains on such a folder.
The names are imported on first use: drawing needs neither torch nor Lightning.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
