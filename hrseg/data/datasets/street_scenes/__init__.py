"""Generated street scenes in the layout of Cityscapes: a data set without a download.

`generate_scene` draws one scene, `write_scenes` a folder of them; `StreetScenesDataModule` trains on such a folder.
Names are imported on first use, as drawing needs neither torch nor Lightning.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
