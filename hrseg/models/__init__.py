"""Networks and their weights: no Lightning, no data sets.

The public names, listed in `__init__.pyi`, are imported on first use: the catalog needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
