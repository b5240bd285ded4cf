"""Checks that a checkpoint fits the training that resumes from it, or the task to be scored."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Timer
from torch import Tensor, optim
from torch.optim import Optimizer

from hrseg.errors import ConfigError, WeightsError
from hrseg.inference import Checkpoint
from hrseg.optim import Muon
from hrseg.utils.checks import is_number

# optimisers whose state for a parameter consists of tensors of its shape and single numbers
_CHECKED = {
    *(optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop, optim.Rprop),
    *(optim.Adagrad, optim.Adadelta, optim.ASGD, Muon),
}
_SINGLE = {"step", "mu_product", "eta", "mu"}


class ResumeCheck(Callback):
    """Raises a `ConfigError` for a checkpoint of other classes, another network or another optimiser.

    An optimiser state that does not fit the parameters is a `WeightsError`. For scoring and prediction, class names may
    differ if their number is the same. A training that has already reached its end is reported.

    Args:
        checkpoint: The checkpoint; None for a new training.
    """

    def __init__(self, checkpoint: Checkpoint | None = None) -> None:
        self._checkpoint = checkpoint
        self._path = None if checkpoint is None else checkpoint.path
        self._optimizers: list[str] = []
        self._state: Mapping[str, Any] = {}
        self._has_started = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compares classes and network before Lightning loads the weights."""
        if self._checkpoint is not None and self._checkpoint.content:
            path, content = self._checkpoint
            own, is_fit = content.get("hrseg") or {}, stage == "fit"
            _require_same_classes(path, own.get("labels") or {}, pl_module, is_fit)
            _require_same_network(path, own.get("network"), content["state_dict"], pl_module, is_fit)
            self._state = dict(content) if is_fit else {}  # before Lightning takes it over

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares optimisers and schedules before Lightning loads their state."""
        self._optimizers = [type(optimizer).__name__ for optimizer in trainer.optimizers]
        if self._path is not None:
            saved = self._state.get("callbacks", {}).get(self.state_key, {}).get("optimizers")
            before = saved if isinstance(saved, list) and saved else self._optimizers
            states = self._state.get("optimizer_states", ())
            _require_same_optimizers(self._path, before, states, trainer.optimizers)
            for number, (state, optimizer) in enumerate(zip(states, trainer.optimizers, strict=False)):
                _require_state(self._path, f"optimizer_states.{number}", state, optimizer)
            schedules = self._state.get("lr_schedulers", ())
            _require_as_many(self._path, "optimisers", states, trainer.optimizers)
            _require_as_many(self._path, "schedules of the learning rate", schedules, trainer.lr_scheduler_configs)
        self._state = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records that the training was not over."""
        self._has_started = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports a training that was over, which Lightning does not."""
        limit = _limit(trainer)
        if self._path is not None and not self._has_started and limit and trainer.is_global_zero:
            print(
                f"nothing was trained: {self._path} is at step {trainer.global_step} (whole epochs: "
                f"{_epochs(trainer)}), and {limit} ends the training there or before; raise it to continue",
                flush=True,
            )

    def state_dict(self) -> dict[str, Any]:
        """Class names of the optimisers."""
        return {"optimizers": self._optimizers}


def _limit(trainer: Trainer) -> str | None:
    """The option whose limit is reached, if any."""
    max_steps, max_epochs = trainer.max_steps, trainer.max_epochs
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    remaining = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
    reached = {
        f"trainer.max_steps {max_steps}": 0 <= max_steps <= trainer.global_step,
        f"trainer.max_epochs {max_epochs}": max_epochs is not None and 0 <= max_epochs <= _epochs(trainer),
        "trainer.max_time": any(seconds is not None and seconds <= 0 for seconds in remaining),
    }
    return next((option for option, is_reached in reached.items() if is_reached), None)


def _epochs(trainer: Trainer) -> int:
    epochs: int = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    return epochs


def _require_same_classes(path: Path, labels: Mapping[str, Any], task: LightningModule, is_fit: bool) -> None:
    now = getattr(task, "labels", None)
    before = labels.get("class_names")
    if now is None or before is None or list(before) == list(now.class_names):
        return
    if not is_fit and len(before) == now.num_classes:
        return
    changed = next(((a, b) for a, b in zip(before, now.class_names, strict=False) if a != b), None)
    detail = f" (where {changed[0]} was, {changed[1]} is)" if changed and len(before) == now.num_classes else ""
    raise _refusal(
        path,
        f"on the {len(before)} classes of {labels.get('name')}",
        f"on the {now.num_classes} of {now.name}{detail}",
        f"{_weights(path)} --model.reinit_head true",
        is_fit,
    )


def _require_same_network(
    path: Path, before: Any, weights: Mapping[str, Tensor], task: LightningModule, is_fit: bool
) -> None:
    shapes, expected = ({key: tuple(entry.shape) for key, entry in it.items()} for it in (weights, task.state_dict()))
    if shapes == expected:
        return
    now = getattr(getattr(task, "network", None), "config", None)
    before, now = (config if isinstance(config, Mapping) else {} for config in (before, now))
    key = next((key for key in ("name", *now) if before.get(key) != now.get(key)), None)
    if before and now and key:
        what = "" if key == "name" else f"{now.get('name')} with {key} "
        raise _refusal(path, f"of {what}{before.get(key)}", f"of {what}{now.get(key)}", is_fit=is_fit)
    name = min(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
    raise _refusal(
        path,
        f"of another network ({name}: {shapes.get(name, 'missing')})",
        f"of {type(getattr(task, 'network', task)).__name__} ({expected.get(name, 'missing')})",
        is_fit=is_fit,
    )


def _require_same_optimizers(
    path: Path, before: Sequence[str], states: Sequence[Mapping[str, Any]], optimizers: Sequence[Optimizer]
) -> None:
    now = [type(optimizer).__name__ for optimizer in optimizers]
    if list(before) != now:
        raise _refusal(path, f"with {', '.join(map(str, before))}", f"with {', '.join(now)}", _weights(path))
    for state, optimizer in zip(states, optimizers, strict=False):
        groups, others = (
            {group.get("name", i): len(group["params"]) for i, group in enumerate(groups)}
            for groups in (state["param_groups"], optimizer.param_groups)
        )
        if list(groups.values()) != list(others.values()):
            raise _refusal(
                path, f"with the parameter groups {_listed(groups)}", f"with {_listed(others)}", _weights(path)
            )


def _require_as_many(path: Path, what: str, saved: Sequence[Any], now: Sequence[Any]) -> None:
    """Compares numbers: Lightning would restore the first ones and leave the others at their start."""
    if len(saved) != len(now):
        raise _refusal(path, f"with {len(saved)} {what}", f"with {len(now)}", _weights(path))


def _require_state(path: Path, where: str, saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Checks the state, which optimisers do not; fused steps crash the process with other shapes."""
    if type(optimizer) not in _CHECKED:
        return
    for number, (group, now) in enumerate(zip(saved["param_groups"], optimizer.param_groups, strict=True)):
        for name, value in group.items():
            if is_number(now.get(name)) and not (is_number(value) or _is_tensor(value, 1)):
                raise _damage(path, f"{where}.param_groups.{number}.{name}", value, "a number")
        for key, parameter in zip(group["params"], now["params"], strict=True):
            state = saved["state"].get(key, {})
            if not isinstance(state, Mapping):
                raise _damage(path, f"{where}.state.{key}", state, "the state of a parameter")
            for name, value in state.items():
                if name in _SINGLE:
                    is_right, expected = is_number(value) or _is_tensor(value, 1), "a single number"
                else:
                    is_right = _is_tensor(value, parameter.shape) or (name == "momentum_buffer" and value is None)
                    expected = f"a tensor of {tuple(parameter.shape)}, as its parameter"
                if not is_right:
                    raise _damage(path, f"{where}.state.{key}.{name}", value, expected)


def _is_tensor(value: object, like: int | torch.Size) -> bool:
    """Whether a value is a dense tensor of a shape, or with a number of elements."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return value.numel() == like if isinstance(like, int) else value.shape == like


def _damage(path: Path, where: str, value: object, expected: str) -> WeightsError:
    found = f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else reprlib.repr(value)
    return WeightsError(
        f"{path} is damaged: {where} is {found}; expected {expected}. Start a new run (another --run_dir, no "
        f"--ckpt_path){_weights(path)}"
    )


def _refusal(path: Path, before: str, now: str, options: str = "", is_fit: bool = True) -> ConfigError:
    if not is_fit:
        return ConfigError(
            f"{path} comes from a training {before}, but this task is {now}; leave out what differs from the run's "
            "settings, or give another --ckpt_path"
        )
    return ConfigError(
        f"{path} comes from a training {before}, but this one is {now} and cannot resume from it; start a new run "
        f"(another --run_dir, no --ckpt_path){options}"
    )


def _weights(path: Path) -> str:
    best = path.with_name("best.ckpt")
    return f" with --model.weights {best if best.is_file() else path}"


def _listed(groups: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} ({number})" for name, number in groups.items())
