"""What differs between the settings that a run was trained with and those that it goes on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# what changes neither steps nor scores
_OF_NO_EFFECT = {
    "experiment",
    "timeout_minutes",
    "weights_only",
    "data.num_workers",
    "trainer.default_root_dir",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
}
# what the checkpoint holds: learning rates, momenta and decay; the seed of the task, and of the data without data.seed
_RESTORED = {"model.optimizer": "optimiser goes on", "seed_everything": "seed stays"}
_LONGEST = 60  # characters of a value
_LISTED = 10


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Lists settings that differ, and matter, in one line; empty if there are none, or if none are known of before.

    Args:
        before: Settings by name, as in `config.yaml`, defaults filled in.
        now: Likewise.

    >>> changes({"data": {"init_args": {"batch_size": 8}}}, {"data": {"init_args": {"batch_size": 4}}})
    'data.batch_size 8 -> 4'
    """
    found = [
        f"{name} {_shown(old)} -> {_shown(new)}"
        + (f" (without effect: the {_RESTORED[kept]} as in the checkpoint)" if (kept := _restored(name)) else "")
        for name, old, new in _differences("", before, now if before else {})
        if name not in _OF_NO_EFFECT
    ]
    more = [f"and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
    return ", ".join([*found[:_LISTED], *more])


def _restored(name: str) -> str | None:
    return next((kept for kept in _RESTORED if name == kept or name.startswith(f"{kept}.")), None)


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
