"""Data sets: label tables, data modules, samples and augmentation.

The public names, listed in `__init__.pyi`, are imported on first use: a label table needs neither torch nor Lightning.
"""

import os

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # keeps `import albumentations` from asking PyPI for a newer version
