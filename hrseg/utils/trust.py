"""The classes that an untrusted checkpoint, or the config.yaml beside it, may instantiate.

A class named in a file is called. Only classes of known packages are allowed, and of these only kinds that compute:
networks, losses, optimisers, schedules, protocols, data modules, image transforms and boundary scores. No functions.
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

# modules of known packages -> the allowed base classes, as (module, class); dataclasses of hrseg are allowed, too
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
_OFFERED = "hrseg"  # offers public names of these
_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
_AROUND = re.compile(r"[\s\[\],'&!#]+")  # YAML syntax around a name
# strings in which jsonargparse could find a class: YAML mappings, quotes and escapes; also downloads of timm
_NESTED = re.compile(r"[{\"\n\r\x85\u2028\u2029]|:\s|:$|\[.*[:\\]|(?i:hf[-_]hub:|local-dir:)")
# settings that are file names; where a class is expected, a parser would read its settings from a file
_FILES = ("data.init_args.classes", "data.init_args.splits", "model.weights", "model.init_args.weights")
_SMP, _SMP_LOSSES = "segmentation_models_pytorch.", "segmentation_models_pytorch.losses."


def require_trusted(settings: Any, where: str | os.PathLike[str], key: str = "") -> None:
    """Checks all values in settings that a parser could import as a class.

    Args:
        settings: Plain values, as from YAML.
        where: Their file, for the message.
        key: Their key in it, for the message.

    Raises:
        ConfigError: They name a class that is not allowed.
    """
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if str(name).startswith("__"):  # the parser's own
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
    """Whether a string names an existing file, pipe or device, or "-", the standard input."""
    path = expanded(text)
    return text == "-" or (os.path.exists(path) and not os.path.isdir(path))


def offline(settings: Any) -> Any:
    """Returns the settings, changed so that networks of segmentation_models_pytorch download no pretrained weights."""
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
    """Whether an import path leads to a class that may be built from an untrusted file.

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
    """The allowed base classes in a module; None if the module is not allowed."""
    return next((kinds for home, kinds in _ALLOWED.items() if f"{module}.".startswith(f"{home}.")), None)


def _is_importable(path: str) -> bool:
    root = path.partition(".")[0]
    try:
        return find_spec(root) is not None
    except (ImportError, ValueError):  # a loaded module without a spec, such as __main__
        return True


def _refuse(what: object, where: str | os.PathLike[str], key: str) -> None:
    raise ConfigError(
        f"{where} names {what!r:.200}{f' under {key}' if key else ''}, which could run any code; expected classes of "
        "hrseg, torch.nn, torch.optim, albumentations and segmentation_models_pytorch. If you trust the file's author, "
        "give --trust (in Python trust=True)"
    )
