"""Description of a task in its checkpoint, and the task rebuilt from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from pytorch_lightning import LightningModule

from hrseg.errors import ConfigError, WeightsError
from hrseg.inference.checkpoint import check_checkpoint, load_entries, rebuild_network
from hrseg.models.weights.read import read_content
from hrseg.utils.construct import (
    NotDescribableError,
    RecordsArguments,
    build_arguments,
    class_path,
    described_arguments,
    import_class,
)
from hrseg.utils.trust import offline, require_trusted

# arguments stored elsewhere in the checkpoint
_STORED_APART = ("network", "network_args", "weights", "reinit_head", "checkpoint_stages", "labels")

Task = TypeVar("Task", bound=LightningModule)


def task_description(task: RecordsArguments) -> dict[str, Any]:
    """Describes a task, apart from network and labels, by plain values for `task_of_checkpoint`."""
    try:
        path = class_path(type(task))
    except NotDescribableError:  # defined in a notebook or a script
        path = None
    arguments, left_out = described_arguments(task, skip=_STORED_APART)
    return {"class_path": path, "init_args": arguments, "left_out": left_out}


def task_of_checkpoint(
    source: str | os.PathLike[str], base: type[Task], kind: type[Task] | None, trust: bool, arguments: dict[str, Any]
) -> Task:
    """Rebuilds the task of a checkpoint, with its weights.

    Args:
        source: The checkpoint.
        base: Base class of all tasks.
        kind: The task's class; None is the one that the checkpoint names.
        trust: Whether to allow classes of any package, which runs their code.
        arguments: Constructor arguments that override the checkpoint's.

    Raises:
        ConfigError: A class is of no known package, and the file is not trusted.
        WeightsError: The checkpoint does not describe the task, or its contents do not fit.
    """
    content = read_content(source)
    init_args, left_out, path = _description(content, source)
    description = check_checkpoint(content, source)
    assert description is not None  # `_description` found some
    for name, reason in left_out.items():
        if name not in arguments:
            raise WeightsError(f"{source} could not keep the task's {name} ({reason}); give {name}=...")
    init_args = {name: value for name, value in init_args.items() if name not in arguments}
    if kind is None and path is None:
        raise WeightsError(f"{source} does not name the class of its task; call load_from_checkpoint of that class")
    if not trust:
        require_trusted({"init_args": init_args, **({"class_path": path} if kind is None else {})}, source, "task")
    if kind is None:
        assert path is not None
        kind = import_class(path, base)
    try:
        arguments = build_arguments(kind, offline(init_args), skip=_STORED_APART) | arguments
    except ConfigError as error:
        raise WeightsError(f"{source}: its task {error}") from error
    network = arguments.pop("network", None) or rebuild_network(content, source, trust)[0]
    task = kind(network=network, labels=arguments.pop("labels", None) or description.labels, **arguments)
    load_entries(task, content.get("state_dict", {}), source)
    task.on_load_checkpoint(content)
    return task


def _description(
    content: Mapping[str, Any], source: str | os.PathLike[str]
) -> tuple[Mapping[str, Any], Mapping[str, Any], str | None]:
    """Constructor arguments as plain values, those left out with reasons, and the class path, if there is one."""
    own = content.get("hrseg")
    task = own.get("task") if isinstance(own, Mapping) else None
    if isinstance(task, Mapping):
        init_args, left_out, path = (task.get(name) for name in ("init_args", "left_out", "class_path"))
        if isinstance(init_args, Mapping) and isinstance(left_out, Mapping) and isinstance(path, str | None):
            return init_args, left_out, path
    raise WeightsError(
        f"{source} does not describe its task; build the task and load its state_dict, or use Predictor.from_checkpoint"
    )
