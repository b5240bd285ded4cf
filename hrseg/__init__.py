"""Semantic segmentation with the HRNet family on PyTorch Lightning.

The public names, listed in `__init__.pyi`, are imported on first use: `import hrseg` alone imports neither torch nor
Lightning.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
