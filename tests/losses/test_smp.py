from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hrseg.errors import ConfigError, UnknownNameError
from hrseg.losses import SmpLoss
from tests.references import losses as reference


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 5, 6, 7, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (2, 6, 7), generator=generator, dtype=torch.uint8)  # the fifth class never occurs
    target[torch.rand(target.shape, generator=generator) < 0.3] = 255
    return logits, target


def lovasz_per_image(logits: np.ndarray, target: np.ndarray) -> float:
    return sum(reference.lovasz(logits[i : i + 1], target[i : i + 1]) for i in range(2)) / 2


REFERENCES: list[tuple[str, dict[str, Any], Callable[[np.ndarray, np.ndarray], float]]] = [
    ("dice", {}, lambda logits, target: reference.tversky(logits, target, 0.5, 0.5)),
    ("jaccard", {}, lambda logits, target: reference.tversky(logits, target, 1.0, 1.0)),
    ("tversky", {"alpha": 0.3, "beta": 0.7}, lambda logits, target: reference.tversky(logits, target, 0.3, 0.7)),
    ("tversky", {"gamma": 0.75}, lambda logits, target: reference.tversky(logits, target, 0.5, 0.5, 0.75)),
    ("focal", {}, lambda logits, target: reference.focal(logits, target, 2.0)),
    ("focal", {"gamma": 0.5}, lambda logits, target: reference.focal(logits, target, 0.5)),
    ("lovasz", {}, reference.lovasz),
    ("lovasz", {"per_image": True}, lovasz_per_image),
]


@pytest.mark.parametrize(("name", "options", "slow"), REFERENCES)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_slow_reference(
    name: str, options: dict[str, Any], slow: Callable[[np.ndarray, np.ndarray], float], seed: int
) -> None:
    logits, target = batch(seed)
    value = SmpLoss(name, options)(logits, target)
    assert value.item() == pytest.approx(slow(logits.numpy(), target.numpy()), rel=1e-6)


@pytest.mark.parametrize("name", ["dice", "Dice", "DiceLoss", "segmentation_models_pytorch.losses.DiceLoss"])
def test_names_a_loss_in_several_ways(name: str) -> None:
    logits, target = batch(0)
    assert torch.equal(SmpLoss(name)(logits, target), SmpLoss("dice")(logits, target))


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean dice"):
        SmpLoss("dise")


@pytest.mark.parametrize("option", ["smoth", "mode", "ignore_index", "from_logits"])
def test_an_unknown_option(option: str) -> None:
    with pytest.raises(ConfigError, match=f"option {option} of SMP loss 'dice'; its options are classes, log_loss"):
        SmpLoss("dice", {option: 1})


def test_constants_move_with_the_module() -> None:
    loss = SmpLoss("dice", {"class_weights": [1.0, 2.0, 3.0], "classes": [0, 2]}).to("meta")
    assert loss.loss.class_weights.device.type == "meta"
    assert loss.loss.classes.device.type == "meta"


def test_smp_is_imported_only_when_it_is_used() -> None:
    code = "import hrseg.losses, sys; print('segmentation_models_pytorch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
