"""Which classes a checkpoint, or the config.yaml beside it, may have built: whoever made the file may be a stranger.

Naming a class in a file is calling it. Only classes of known packages are allowed, and of these only kinds that
compute: networks, losses, optimisers, schedules, protocols, data modules, image transforms and what scores borders.
None is a function.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hrseg.errors import ConfigError
from hrseg.utils.paths import expanded

# where classes of known packages are defined -> the kinds that may be built, as (module, class); and our dataclasses
_MODULE, _OPTIMIZER = ("torch.nn", "Module"), ("torch.optim", "Optimizer")
_SCHEDULE = ("torch.optim.lr_scheduler", "LRScheduler")
_TRANSFORMS = (("albumentations", "BasicTransform"), ("albumentations", "BaseCompose"))
_DATA = ("hrseg.data", "SegmentationDataModule")
_ALLOWED: dict[str, tuple[tuple[str, str], ...]] = {
    "torch.nn": (_MODULE,),
    "torch.optim": (_OPTIMIZER, _SCHEDULE),
    "segmentation_models_pytorch.losses": (_MODULE,),
    "segmentation_models_pytorch": (("segmentation_models_pytorch.base", "SegmentationModel"),),
    "albumentations": _TRANSFORMS,
    "hrseg.models": (_MODULE,),
    "hrseg.losses": (_MODULE,),
    "hrseg.optim": (_OPTIMIZER, _SCHEDULE),
    "hrseg.inference": (),
    "hrseg.task": (_MODULE,),
    "hrseg.data": (_DATA, *_TRANSFORMS),
    "hrseg.callbacks": (("hrseg.callbacks", "BoundaryReport"),),
}
_OFFERED = "hrseg"  # whose names lead to one of the above
_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
_AROUND = re.compile(r"[\s\[\],'&!#]+")  # what YAML may put around a name
# what would make jsonargparse read a string as YAML with a class in it: mappings, quotes, escapes; and timm, download
_NESTED = re.compile(r"[{\"\n\r\x85\u2028\u2029]|:\s|:$|\[.*[:\\]|(?i:hf[-_]hub:|local-dir:)")
# settings that are names of files; in place of a class, a parser reads any file for its settings
_FILES = ("data.init_args.classes", "data.init_args.splits", "model.weights", "model.init_args.weights")
_SMP, _SMP_LOSSES = "segmentation_models_pytorch.", "segmentation_models_pytorch.losses."


def require_trusted(settings: Any, where: str | os.PathLike[str], key: str = "") -> None:
    """Looks at everything in settings that a parser could take for the name of a class, before it is imported.

    Args:
        settings: Plain values, as of YAML.
        where: The file that they are from, for the message.
        key: Their place in it, likewise.

    Raises:
        ConfigError: They name something that is not on the list.
    """
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if str(name).startswith("__"):  # what a parser notes for itself
                _refuse(name, where, key)
            require_trusted(name, where, key)
            require_trusted(value, where, f"{key}.{name}" if key else str(name))
        if "class_path" in settings and not (
            isinstance(settings["class_path"], str) and is_trusted(settings["class_path"])
        ):
            _refuse(settings["class_path"], where, key)
    elif isinstance(settings, (list, tuple)):
        for value in settings:
            require_trusted(value, where, key)
    elif isinstance(settings, str):
        _require_trusted_text(settings, where, key)


def _require_trusted_text(text: str, where: str | os.PathLike[str], key: str) -> None:
    if _NESTED.search(text):
        _refuse(text, where, key)
    for path in _AROUND.split(text):
        if _PATH.fullmatch(path) and _is_importable(path) and not is_trusted(path):
            _refuse(path, where, key)
    is_file = Path(text).suffix.lower() in (".yaml", ".yml", ".json") or _is_there(text)
    if is_file and not key.startswith(_FILES):
        _refuse(text, where, key)


def _is_there(text: str) -> bool:
    """Whether a string is the name of a file, pipe or device, as "-" is of the standard input."""
    path = expanded(text)
    return text == "-" or (os.path.exists(path) and not os.path.isdir(path))


def offline(settings: Any) -> Any:
    """Settings, plain values, in which networks of segmentation_models_pytorch fetch no weights for a start."""
    if isinstance(settings, (list, tuple)):
        return [offline(value) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    made = {name: offline(value) for name, value in settings.items()}
    path = str(made.get("class_path"))
    if path.startswith(_SMP) and not path.startswith(_SMP_LOSSES):
        given = made.get("init_args")
        made["init_args"] = {**(given if isinstance(given, dict) else {}), "encoder_weights": None}
        if isinstance(others := made.get("dict_kwargs"), dict):
            others.pop("encoder_weights", None)
    return made


def is_trusted(path: str) -> bool:
    """Whether an import path leads to a class that may be built from a file of a stranger.

    >>> is_trusted("torch.nn.Conv2d"), is_trusted("torch.hub.load"), is_trusted("os.system")
    (True, False, False)
    """
    module, _, name = path.rpartition(".")
    if any(part.startswith("_") for part in path.split(".")) or (module != _OFFERED and _kinds_of(module) is None):
        return False
    try:
        found = getattr(import_module(module), name)
    except Exception:  # there is none
        return False
    home = getattr(found, "__module__", "")
    kinds = _kinds_of(home)
    if not isinstance(found, type) or kinds is None:
        return False
    return (home.startswith("hrseg.") and is_dataclass(found)) or any(
        issubclass(found, getattr(import_module(module), kind)) for module, kind in kinds
    )


def _kinds_of(module: str) -> tuple[tuple[str, str], ...] | None:
    """The kinds that may be built of what a module defines; None for modules that are not on the list."""
    return next((kinds for home, kinds in _ALLOWED.items() if f"{module}.".startswith(f"{home}.")), None)


def _is_importable(path: str) -> bool:
    root = path.partition(".")[0]
    try:
        return find_spec(root) is not None
    except (ImportError, ValueError):  # a module that is loaded and has no specification, such as __main__
        return True


def _refuse(what: object, where: str | os.PathLike[str], key: str) -> None:
    raise ConfigError(
        f"{where} names {what!r:.200}{f' under {key}' if key else ''}, which could run any code when it is built; only "
        "classes of hrseg, torch.nn, torch.optim, albumentations and segmentation_models_pytorch are "
        "built from a file that is found. If you trust who made it, give --trust (in Python trust=True)"
    )
