from __future__ import annotations

import copy
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from hrseg.errors import LabelRangeError
from hrseg.metrics.calibration import LEVELS, TEMPERATURES, CalibrationScores, TemperatureFit, lowest_temperature
from tests.processes import CONTEXT
from tests.references import calibration as reference

K = 4


def batch(seed: int, number: int = 2, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits of an overconfident network, and a target with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(number, K, 40, 50, generator=generator) * torch.rand(number, 1, 40, 50, generator=generator)
    target = torch.multinomial((3 * logits).softmax(1).movedim(1, -1).flatten(0, 2), 1, generator=generator)
    target = target.view(number, 40, 50).to(torch.uint8)
    target[:, :3] = 255
    return 5 * sharpness * logits, target


def flat(*batches: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K) and target (N,) of the valid pixels."""
    logits = torch.cat([one.movedim(1, -1).flatten(0, 2) for one, _ in batches]).numpy()
    target = torch.cat([other.flatten() for _, other in batches]).numpy()
    return logits[target < K], target[target < K]


def test_scores_are_those_of_the_reference() -> None:
    batches = [batch(0), batch(1, 3)]
    metric = CalibrationScores(K)
    for one in batches:
        metric.update(*one)
    scores = metric.compute()
    logits, target = flat(*batches)
    probabilities = reference.softmax(logits)
    confidence, predicted = probabilities.max(1), probabilities.argmax(1)
    is_right = predicted == target
    width = reference.equal_width(confidence, is_right, 15)
    np.testing.assert_array_equal(scores["curve"][0], width[0])
    np.testing.assert_allclose(scores["curve"], width, atol=1e-6)
    assert scores["ece"].item() == pytest.approx(reference.error(width), abs=1e-6)
    assert scores["ece"] > 0.1
    mass = reference.equal_mass(confidence, is_right, 15)
    pixels = scores["curve_equal_mass"][0]
    assert abs(pixels - mass[0].mean()).max() < 60  # those of a level
    np.testing.assert_allclose(scores["curve_equal_mass"][1:], mass[1:], atol=0.02)
    assert scores["ece_equal_mass"].item() == pytest.approx(reference.error(mass), abs=2e-3)
    assert scores["nll"].item() == pytest.approx(reference.nll(logits, target), rel=1e-5)
    assert scores["accuracy"].item() == pytest.approx(is_right.mean())
    assert scores["confidence"].item() == pytest.approx(confidence.mean(), abs=1e-6)
    assert scores["pixels"] == len(target)
    for index in range(K):
        of_class = predicted == index
        ours = reference.equal_width(confidence[of_class], is_right[of_class], 15)
        assert scores["class_ece"][index].item() == pytest.approx(reference.error(ours), abs=1e-6)
        ours = reference.equal_mass(confidence[of_class], is_right[of_class], 15)
        assert scores["class_ece_equal_mass"][index].item() == pytest.approx(reference.error(ours), abs=5e-3)
        assert scores["class_accuracy"][index].item() == pytest.approx(is_right[of_class].mean())
        assert scores["class_confidence"][index].item() == pytest.approx(confidence[of_class].mean(), abs=1e-6)
        assert scores["class_pixels"][index] == of_class.sum()


def test_bins_of_equal_mass_are_exact_where_levels_hold_one_pixel() -> None:
    """Probabilities of two classes in the middle of distinct levels."""
    confidence = (np.arange(LEVELS // 2, LEVELS, 7) + 0.5) / LEVELS
    confidence = confidence[: len(confidence) // 15 * 15]
    is_right = np.random.default_rng(0).random(len(confidence)) < confidence**2
    odds = torch.from_numpy(np.log(confidence / (1 - confidence))).float()
    logits = torch.stack([odds, torch.zeros(len(odds))])[None, :, None]
    metric = CalibrationScores(2)
    metric.update(logits, torch.from_numpy(~is_right).to(torch.uint8)[None, None])
    expected = reference.equal_mass(confidence, is_right, 15)
    scores = metric.compute()
    np.testing.assert_allclose(scores["curve_equal_mass"], expected, atol=1e-6)
    assert scores["ece_equal_mass"].item() == pytest.approx(reference.error(expected), abs=1e-6)


def test_certain_pixels_and_classes_that_never_occur() -> None:
    logits = torch.zeros(1, 3, 1, 4)
    logits[:, 0] = 200.0
    metric = CalibrationScores(3)
    metric.update(logits, torch.tensor([[[0, 0, 0, 1]]]))
    scores = metric.compute()
    assert scores["curve"][:, -1].tolist() == [4, 1, 0.75]
    assert scores["ece"].item() == scores["ece_equal_mass"].item() == 0.25
    assert scores["class_ece"][0] == 0.25
    assert scores["class_ece"][1:].isnan().all()
    assert scores["nll"].item() == 50


def test_without_valid_pixels_there_are_no_scores() -> None:
    metric = CalibrationScores(3)
    metric.update(torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 255))
    scores = metric.compute()
    assert scores["pixels"] == 0
    assert all(scores[name].isnan() for name in ("ece", "ece_equal_mass", "nll", "accuracy"))


def test_label_ids_in_the_target() -> None:
    metric = CalibrationScores(3)
    metric.update(torch.zeros(1, 3, 1, 3), torch.tensor([[[1, 33, 255]]]))
    with pytest.raises(LabelRangeError, match="1 pixels of the target are neither 0-2 nor 255"):
        metric.compute()


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 2.7])
def test_the_temperature_is_that_of_a_search_over_all_pixels(sharpness: float) -> None:
    batches = [batch(seed, sharpness=sharpness) for seed in (0, 1)]
    fit = TemperatureFit()
    for one in batches:
        fit.update(*one)
    found, expected = fit.compute().item(), reference.best_temperature(*flat(*batches))
    assert found == pytest.approx(expected, rel=3e-4)
    assert expected == pytest.approx(5 / 3 * sharpness, rel=0.1)  # the target was drawn from 3 of the 5
    for index in (0, 12, 24):
        nll = reference.nll(*flat(*batches), TEMPERATURES[index])
        assert fit.nll[index].item() / fit.pixels == pytest.approx(nll, rel=1e-5)


@pytest.mark.parametrize(("sharpness", "expected"), [(0.01, 1 / 8), (100.0, 8.0)])
def test_a_temperature_beyond_the_range_is_its_end(sharpness: float, expected: float) -> None:
    fit = TemperatureFit()
    fit.update(*batch(0, sharpness=sharpness))
    assert fit.compute() == expected


def test_the_lowest_of_a_curve() -> None:
    for best in (0.126, 0.2, 0.999, 1.0, 1.37, 5.0, 7.9):
        assert lowest_temperature((np.log(TEMPERATURES) - np.log(best)) ** 2) == pytest.approx(best, rel=1e-3)


def test_a_temperature_lowers_the_error() -> None:
    one = batch(0)
    fit, before, after = TemperatureFit(), CalibrationScores(K), CalibrationScores(K)
    fit.update(*one)
    before.update(*one)
    after.update(one[0] / fit.compute(), one[1])
    assert after.compute()["nll"] < before.compute()["nll"]
    assert after.compute()["ece"] < 0.5 * before.compute()["ece"]


def test_half_precision_and_copies() -> None:
    metric = CalibrationScores(K).half()
    logits, target = batch(0)
    metric.update(logits.half(), target)
    other = CalibrationScores(K)
    other.update(logits.half().float(), target)
    for found, expected in zip(copy.deepcopy(metric).compute().values(), other.compute().values(), strict=True):
        torch.testing.assert_close(found, expected, equal_nan=True)


def count_on_a_rank(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        metrics = CalibrationScores(K), TemperatureFit()
        for seed in range(1 + 2 * rank):  # ranks may see different numbers of batches
            for metric in metrics:
                metric.update(*batch(10 * rank + seed))
        torch.save([metric.compute() for metric in metrics], f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_give_what_one_does(tmp_path: Path) -> None:
    other = CONTEXT.Process(target=count_on_a_rank, args=(1, str(tmp_path)))
    other.start()
    count_on_a_rank(0, str(tmp_path))
    other.join()
    assert other.exitcode == 0
    metrics = CalibrationScores(K), TemperatureFit()
    for seed in (0, 10, 11, 12):
        for metric in metrics:
            metric.update(*batch(seed))
    scores, temperature = (metric.compute() for metric in metrics)
    for rank in range(2):
        found, of_rank = torch.load(tmp_path / f"{rank}.pt")
        assert of_rank == temperature
        for name, value in scores.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12 if name == "nll" else 0, equal_nan=True)
