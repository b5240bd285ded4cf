"""Progress in a notebook: a bar and training curves in the cell's output, updated in place."""

from __future__ import annotations

import html
import io
import math
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from hrseg.callbacks.metrics_csv import MetricsCsv
from hrseg.callbacks.progress import TimedProgress
from hrseg.errors import ConfigError

_SMOOTHING = 0.9  # decay of the exponential moving average


class NotebookProgress(TimedProgress):
    """Progress bar for notebooks, with curves of logged values during training.

    Args:
        curves: Names of the logged values to plot. "val/..." values are read after each validation, others at the
            steps logged to `metrics.csv` (`log_every_n_steps`), so that a resumed run shows the same curves; every step
            if the run has no such file.
        seconds: Minimum time between two updates of the bar. The curves are updated a tenth as often, and after each
            epoch.
    """

    def __init__(self, curves: Sequence[str] = ("train/loss", "val/miou"), seconds: float = 0.5) -> None:
        super().__init__(seconds)
        self._curves: dict[str, list[tuple[int, Tensor | float]]] = {name: [] for name in curves}
        self._is_enabled = True
        self._last = self._last_picture = -math.inf
        self._bar: Any = None
        self._picture: Any = None

    def enable(self) -> None:
        """Enables the display."""
        self._is_enabled = True

    def disable(self) -> None:
        """Disables the display; Lightning calls it on all ranks but 0."""
        self._is_enabled = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts a new bar in the current cell.

        Raises:
            ConfigError: IPython is not installed.
        """
        super().setup(trainer, pl_module, stage)
        try:
            import IPython  # noqa: F401  # optional dependency
        except ImportError as error:
            raise ConfigError("NotebookProgress needs IPython; give PlainProgress outside of notebooks") from error
        self._bar = self._picture = None

    # ------------------------------------------------------------------------------------------------ training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the timer; a resumed run's curves start with its logged rows."""
        super().on_train_start(trainer, pl_module)
        self._start = time.perf_counter()
        logged = next((logger for logger in trainer.loggers if isinstance(logger, MetricsCsv)), None)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        self._every_n_steps = every if logged else 1
        for name, points in self._curves.items():
            # the rows are numbered by the steps done before theirs
            points[:] = [(step + 1, value) for step, value in logged.values(name)] if logged else []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records the curves' values without a host sync, and updates the bar."""
        batches = batch_idx + 1
        is_step = batches % trainer.accumulate_grad_batches == 0 or batches == trainer.num_training_batches
        if is_step and trainer.global_step % self._every_n_steps == 0:
            self._note(trainer, is_validation=False)
        if self._is_time():
            self._show_training(trainer, pl_module, batches)
            if time.perf_counter() - self._last_picture >= 10 * self._seconds:
                self._draw()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the curves' values."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._note(trainer, is_validation=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Updates bar and curves."""
        self._show_training(trainer, pl_module, int(self.total_train_batches))
        self._draw()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves a summary line."""
        taken = timedelta(seconds=round(time.perf_counter() - self._start))
        self._show(1, 1, f"step {trainer.global_step}, after {taken}", *self._logged(trainer, pl_module))
        self._draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the bar at the step it stopped at."""
        if self._bar is not None and trainer.state.fn == TrainerFn.FITTING:
            self._show(0, 1, f"stopped at step {trainer.global_step}", *self._logged(trainer, pl_module))
            self._draw()

    def _show_training(self, trainer: Trainer, pl_module: LightningModule, batches: int) -> None:
        total = trainer.estimated_stepping_batches
        done = trainer.global_step if math.isfinite(total) else 0
        self._show(done, total, *self._training(trainer, pl_module, batches))

    def _note(self, trainer: Trainer, is_validation: bool) -> None:
        for name, points in self._curves.items():
            if name.startswith("val/") == is_validation and name in trainer.callback_metrics:
                points.append((trainer.global_step, trainer.callback_metrics[name].detach()))

    def _show_count(self, done: int, total: int | float, text: str) -> None:
        if done == total or self._is_time():
            self._show(done, total, text)

    # ----------------------------------------------------------------------------------------------- the output

    def _show(self, done: float, total: float, *parts: str) -> None:
        text = " · ".join(parts)
        self._last = time.perf_counter()
        bar = f'<progress value="{done}" max="{total}" style="width: 16em"></progress>'
        self._bar = self._put(self._bar, {"text/plain": text, "text/html": f"{bar} {html.escape(text)}"})

    def _draw(self) -> None:
        self._last_picture = time.perf_counter()
        for points in self._curves.values():
            points[:] = [(step, float(value)) for step, value in points]
        drawn = {name: points for name, points in self._curves.items() if points}
        if drawn and self._is_enabled:
            png = draw_curves(drawn)  # type: ignore[arg-type]  # numbers by now
            self._picture = self._put(self._picture, {"text/plain": f"curves of {', '.join(drawn)}", "image/png": png})

    def _put(self, handle: Any, content: dict[str, str | bytes]) -> Any:
        """Updates the display of a handle, or creates one."""
        from IPython.display import display

        if not self._is_enabled:
            return None
        if handle is None:
            return display(content, raw=True, display_id=True)
        handle.update(content, raw=True)
        return handle


def draw_curves(curves: dict[str, list[tuple[int, float]]], height: int = 220) -> bytes:
    """Plots values over steps, one plot per name, side by side.

    Args:
        curves: (step, value) pairs by name. Above 30 points their moving average is drawn on top.
        height: Height in pixels.

    Returns:
        PNG bytes.
    """
    from matplotlib.figure import Figure  # slow to import

    every_step = [step for points in curves.values() for step, _ in points]
    figure = Figure(figsize=(height / 50 * len(curves), height / 80), dpi=80, layout="constrained")
    for index, (name, points) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), index + 1)
        steps, values = zip(*points, strict=True)
        many = len(points) > 30
        axes.plot(steps, values, "tab:blue", marker="" if many else ".", alpha=0.3 if many else 1, linewidth=1)
        if many:
            axes.plot(steps, running_mean(values), "tab:blue")
        axes.set(title=name, xlabel="step", xlim=(min(every_step) - 1, max(every_step) + 1))
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def running_mean(values: Sequence[float], smoothing: float = _SMOOTHING) -> list[float]:
    """Exponential moving average with bias correction.

    >>> running_mean([1.0, 1.0, 4.0], smoothing=0.5)
    [1.0, 1.0, 2.7142857142857144]
    """
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total = smoothing * total + (1 - smoothing) * value
        weight = smoothing * weight + (1 - smoothing)
        means.append(total / weight)
    return means
