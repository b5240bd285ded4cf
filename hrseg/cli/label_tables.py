"""`hrseg predict --labels`: the classes of weights from elsewhere than a run."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hrseg
from hrseg.errors import ConfigError

if TYPE_CHECKING:
    from hrseg.data.labels import LabelTable


# the tables among the public names, in lower case
TABLES = [name.lower() for name in dir(hrseg) if name.isupper()]
ACCEPTED = (
    f"one of {', '.join(TABLES)}; the folder of a run; or a classes.yaml, which lists the names in the order of the "
    "network's outputs"
)


def read_labels(source: str) -> tuple[LabelTable, Sequence[int] | None]:
    """Finds a label table, and the (height, width) that images are resized to, ignoring aspect ratio, if any.

    Args:
        source: A name in `TABLES`; the folder of a run, or a checkpoint in it; a YAML file as `hrseg.data.classes`
            reads it, or the folder of a data set with such a `classes.yaml`.

    Raises:
        ConfigError: It is none of these, or the file is not valid.
        WeightsError: The checkpoint cannot be read.
    """
    path = Path(source)
    if source in TABLES:
        labels = getattr(hrseg, source.upper())
        return labels, _input_size(labels)
    checkpoints = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    checkpoint = next((file for file in checkpoints if file.is_file()), None)
    if checkpoint or (path.suffix == ".ckpt" and path.is_file()):
        return _of_run(checkpoint or path)
    file = path / "classes.yaml" if path.is_dir() else path
    if file.is_file() and file.suffix in (".yaml", ".yml"):
        from hrseg.data.classes import read_classes

        return read_classes(file, file.absolute().parent.name), None
    nearest = difflib.get_close_matches(source, TABLES, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}? Expected" if nearest else "expected"
    raise ConfigError(f"unknown labels {source!r}; {hint} {ACCEPTED}")


def _input_size(labels: LabelTable) -> Sequence[int] | None:
    """The default of the table's data module."""
    for name in dir(hrseg):
        if name.endswith("DataModule") and getattr(getattr(hrseg, name), "labels", None) is labels:
            parameter = inspect.signature(getattr(hrseg, name)).parameters.get("input_size")
            return None if parameter is None else parameter.default
    return None


def _of_run(checkpoint: Path) -> tuple[LabelTable, Sequence[int] | None]:
    from hrseg.data.labels import LabelTable
    from hrseg.models.weights.read import read_content

    description: Any = read_content(checkpoint, values=False).get("hrseg")
    try:
        return LabelTable.from_dict(description["labels"]), description.get("input_size")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{checkpoint} does not describe its classes; expected {ACCEPTED}") from error
