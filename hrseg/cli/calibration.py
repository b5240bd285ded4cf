"""What `hrseg calibrate` does, through Lightning, and its files and tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from hrseg.callbacks import Calibration
from hrseg.cli.lightning import HrsegCLI
from hrseg.cli.output import say
from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, WeightsError
from hrseg.inference.checkpoint import write_temperature
from hrseg.metrics.calibration import TEMPERATURES
from hrseg.utils.files import replacing, write_json

_CURVES = {"width": "curve", "mass": "curve_equal_mass"}  # bins of equal ...
_TITLES = {
    "nll": "negative log-likelihood",
    "ece": "expected calibration error, %",
    "ece_equal_mass": "the same with bins of equal mass, %",
}
_OF_CLASSES = ("pixels", "accuracy", "confidence", "ece", "ece_equal_mass")


class CalibrateCLI(HrsegCLI):
    """Validates twice, to fit the temperature and with it; writes it to the checkpoint, and the files of the run."""

    purpose = "calibrate"

    def before_instantiate_classes(self) -> None:
        """Checks the checkpoint, which will be replaced."""
        super().before_instantiate_classes()
        if self._checkpoint is None:
            raise ConfigError("an exported file keeps its temperature; calibrate the checkpoint, and export it again")
        if not isinstance(self._checkpoint.content.get("hrseg"), Mapping):
            raise WeightsError(f"{self._checkpoint.path} is not a checkpoint of hrseg; expected best.ckpt or last.ckpt")
        self._state = _state(self._checkpoint.path)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with `Calibration`."""
        self._calibration = Calibration(self.run_dir)
        self._callbacks = [self._calibration]
        return super().instantiate_trainer(**kwargs)

    def after_validate(self) -> None:
        """The second validation, the files and the tables."""
        assert self._checkpoint is not None
        found, path = self._calibration, self._checkpoint.path
        pixels, nll = (found.scores[0][name].item() for name in ("pixels", "nll"))
        if not pixels:
            raise ConfigError(f"no pixel of the {found.facts['split']} split has a label; nothing to calibrate with")
        if not math.isfinite(nll):
            raise ConfigError(f"the logits of {path} are not all numbers; train it again, with a lower learning rate")
        self.trainer.validate(self.model, self.datamodule, verbose=False)
        if not self.trainer.is_global_zero:
            return
        assert found.temperature is not None
        if _state(path) != self._state:
            raise ConfigError(f"{path} was written meanwhile, as by a training; calibrate when it has ended")
        write_temperature(path, found.temperature)
        labels = self.model.labels
        _write_curves(self.run_dir / "calibration.csv", found.scores, found.temperature)
        write_json(self.run_dir / "calibration.json", _summary(found, labels))
        Console().print(*_tables(found, labels), crop=False)
        if found.temperature in (TEMPERATURES[0], TEMPERATURES[-1]):
            say(f"the best temperature lies beyond {TEMPERATURES[0]:g} to {TEMPERATURES[-1]:g}, and is set to its end")
        say(f"temperature {found.temperature:g}: {path}; scores: {self.run_dir / 'calibration.json'} and .csv")


def _state(path: Path) -> tuple[int, int]:
    """Tells whether a file was replaced."""
    state = path.stat()
    return state.st_ino, state.st_mtime_ns


def _rows(scores: Mapping[str, Tensor], kind: str) -> Iterator[tuple[int, int, float, float]]:
    """Number, pixels, mean confidence and accuracy of each bin."""
    for index, (pixels, confidence, accuracy) in enumerate(scores[_CURVES[kind]].T.tolist()):
        yield index, int(pixels), confidence, accuracy


def _write_curves(path: Path, both: Sequence[Mapping[str, Tensor]], temperature: float) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["temperature", "bins_of_equal", "bin", "pixels", "confidence", "accuracy"])
        for value, scores in zip((1.0, temperature), both, strict=True):
            for kind in _CURVES:
                for index, pixels, *means in _rows(scores, kind):
                    writer.writerow([value, kind, index, pixels, *("" if math.isnan(mean) else mean for mean in means)])


def _summary(found: Calibration, labels: LabelTable) -> dict[str, Any]:
    """Content of calibration.json."""
    summary: dict[str, Any] = {"temperature": found.temperature}
    for name, scores in zip(("without", "with"), found.scores, strict=True):
        summary[name] = {key: scores[key].item() for key in ("nll", "ece", "ece_equal_mass", "accuracy", "confidence")}
        of_classes = zip(*(scores[f"class_{key}"].view(-1).tolist() for key in _OF_CLASSES), strict=True)
        summary[name]["predicted_classes"] = {
            of: dict(zip(_OF_CLASSES, values, strict=True))
            for of, values in zip(labels.class_names, of_classes, strict=True)
        }
    return summary | {"pixels": int(found.scores[0]["pixels"]), **found.facts}


def _tables(found: Calibration, labels: LabelTable) -> Iterator[Table]:
    """Scores, and the reliability curves of bins of equal width, without and with temperature."""
    ways = [f"T = {temperature:g}" for temperature in (1, found.temperature)]
    table = Table(title=Text(f"{labels.name} {found.facts['split']}"))
    table.add_column("")
    for way in ways:
        table.add_column(way, justify="right")
    for key, title in _TITLES.items():
        values = [scores[key].item() for scores in found.scores]
        table.add_row(title, *(f"{value:.5g}" if key == "nll" else _percent(value) for value in values))
    yield table
    table = Table(title="reliability, in %")
    table.add_column("\nbin")
    for way in ways:
        for index, name in enumerate(("pixels", "confidence", "accuracy")):
            table.add_column(f"{'' if index else way}\n{name}", justify="right")
    both = [list(_rows(scores, "width")) for scores in found.scores]
    number, pixels = len(both[0]), found.scores[0]["pixels"].item()
    for index in range(number):
        cells = [_percent(value) for rows in both for value in (rows[index][1] / pixels, *rows[index][2:])]
        table.add_row(f"{100 * index / number:.0f}-{100 * (index + 1) / number:.0f}", *cells)
    yield table


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"
