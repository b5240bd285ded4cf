"""Differences between the settings that a run was trained with and those that it goes on with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hrseg.errors import ConfigError
from hrseg.utils.files import replacing
from hrseg.utils.text_files import read_settings

# change neither steps nor scores
_WITHOUT_EFFECT = {
    "experiment",
    "timeout_minutes",
    "weights_only",
    "data.num_workers",
    "trainer.default_root_dir",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
}
# restored from the checkpoint: learning rates, momenta, weight decay; the seed of the task, and of data without one
_RESTORED = {
    "model.optimizer": "optimiser",
    "model.head_lr_factor": "optimiser",
    "model.lr_factors": "optimiser",
    "model.schedule.": "schedule",  # a class's arguments; another class or name has an effect
    "seed_everything": "seed",
}
_LONGEST = 60  # characters of a value
_LISTED = 10


def going_on(checkpoint: Path, config: Path, settings: Mapping[str, Any]) -> str:
    """Returns the first line printed by a training that resumes from a checkpoint.

    Args:
        checkpoint: The checkpoint.
        config: The `config.yaml` of its run; may be missing.
        settings: The current settings, as that file would hold them.
    """
    found = changes(_read(config), settings)
    return f"resuming from {checkpoint}" + (f" with settings that differ from {config}: {found}" if found else "")


def keep_before(config: Path, settings: Mapping[str, Any], step: int) -> None:
    """Copies a `config.yaml` to `config_until_step_N.yaml` if other settings will replace it."""
    kept = config.with_name(f"config_until_step_{step}.yaml")
    if step and not kept.exists() and changes(_read(config), settings):
        with replacing(kept) as temporary:
            shutil.copyfile(config, temporary)


def _read(config: Path) -> dict[str, Any]:
    """The settings in a file; none if it is missing or damaged."""
    try:
        return read_settings(config)
    except ConfigError:
        return {}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Lists the settings that differ and matter, in one line; empty if none do, or `before` is empty.

    Args:
        before: The run's settings by name, as in `config.yaml`, defaults included.
        now: The current settings.

    >>> changes({"data": {"init_args": {"batch_size": 8}}}, {"data": {"init_args": {"batch_size": 4}}})
    'data.batch_size 8 -> 4'
    """
    found = [
        f"{name} {_shown(old)} -> {_shown(new)}"
        + (f" (without effect: the {_RESTORED[kept]} comes from the checkpoint)" if (kept := _restored(name)) else "")
        for name, old, new in _differences("", before, now if before else {})
        if name not in _WITHOUT_EFFECT
    ]
    more = [f"and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
    return ", ".join([*found[:_LISTED], *more])


def _restored(name: str) -> str | None:
    return next((kept for kept in _RESTORED if name == kept or name.startswith(f"{kept.rstrip('.')}.")), None)


def _differences(name: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        if before != now:
            yield name, before, now
    elif before.get("class_path") != now.get("class_path"):
        yield name, before.get("class_path"), now.get("class_path")
    else:
        for key in dict.fromkeys([*before, *now]):
            inner = name if key == "init_args" else f"{name}.{key}".lstrip(".")
            yield from _differences(inner, before.get(key), now.get(key))


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
