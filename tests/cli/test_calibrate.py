"""`hrseg calibrate` on the run of a short training."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hrseg
from hrseg.cli import main
from hrseg.data.datasets.camvid import CAMVID
from hrseg.utils.images import read_image, read_label, write_image
from tests.cli.conftest import RECIPE
from tests.data.datasets.test_camvid import write_camvid
from tests.references import calibration as reference

# with logits of moderate size
NETWORK = "{class_path: torch.nn.Conv2d, init_args: {in_channels: 3, out_channels: 11, kernel_size: 3, padding: 1}}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    recipe = place / "toy.yaml"
    recipe.write_text(RECIPE.format(root=write_camvid(place / "data")).replace("hrnetv2_w18_small_v1", NETWORK))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("LOCAL_RANK", raising=False)
        assert main(["fit", f"--config={recipe}", "--run_dir=run", "--trainer.max_epochs=2"]) == 0
    draw_labels(place / "run" / "checkpoints" / "best.ckpt", place / "data")
    return place


def draw_labels(checkpoint: Path, data: Path) -> None:
    """Draws the labels of the validation split from the network's probabilities at the temperature 0.5."""
    task = hrseg.SegmentationTask.load_from_checkpoint(checkpoint).eval()
    generator = torch.Generator().manual_seed(0)
    for path in (data / "val").glob("*.png"):
        label = read_label(data / "valannot" / path.name)
        with torch.inference_mode():
            logits = task(torch.from_numpy(read_image(path)).permute(2, 0, 1)[None], label.shape)[0]
        drawn = torch.multinomial((logits / 0.5).softmax(0).flatten(1).T, 1, generator=generator)
        write_image(data / "valannot" / path.name, np.where(label < 11, drawn.view(label.shape), 11).astype(np.uint8))


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    shutil.copytree(trained / "run", "run")
    yield Path("run")
    assert not list(Path("run").rglob(".hrseg-*"))


def pixels_of_val(checkpoint: Path, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K) and target (N,) of the labelled pixels of the validation split."""
    task = hrseg.SegmentationTask.load_from_checkpoint(checkpoint).eval()
    logits, targets = [], []
    for path in sorted((data / "val").glob("*.png")):
        target = read_label(data / "valannot" / path.name)  # train ids, and 11 for void
        image = torch.from_numpy(read_image(path)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            logits.append(task(image, target.shape)[0].flatten(1).T.numpy())
        targets.append(target.flatten())
    logits_of_all, target_of_all = np.concatenate(logits), np.concatenate(targets)
    return logits_of_all[target_of_all < 11], target_of_all[target_of_all < 11]


def without_temperature(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "hrseg": {name: value for name, value in content["hrseg"].items() if name != "temperature"}}


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    else:
        assert one == other


def test_temperature_and_errors_are_those_of_the_reference(
    run: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    logits, target = pixels_of_val(best, trained / "data")
    assert main(["calibrate", "run"]) == 0
    found = json.loads((run / "calibration.json").read_text())
    temperature = found["temperature"]
    assert temperature == pytest.approx(reference.best_temperature(logits, target), rel=1e-3)
    assert temperature == pytest.approx(0.5, rel=0.2)
    assert f"temperature {temperature:g}: {best}; scores: run/calibration.json and .csv" in capsys.readouterr().out
    assert (found["checkpoint"], found["split"]) == ("checkpoints/best.ckpt", "val")
    assert found["pixels"] == len(target)
    rows = list(csv.DictReader((run / "calibration.csv").read_text().splitlines()))
    for name, value in (("without", 1.0), ("with", temperature)):
        probabilities = reference.softmax(logits / value)
        confidence, is_right = probabilities.max(1), probabilities.argmax(1) == target
        curve = reference.equal_width(confidence, is_right, 15)
        assert found[name]["nll"] == pytest.approx(reference.nll(logits, target, value), rel=1e-4)
        assert found[name]["ece"] == pytest.approx(reference.error(curve), abs=2e-3)
        assert found[name]["accuracy"] == pytest.approx(is_right.mean(), abs=1e-3)
        assert set(found[name]["predicted_classes"]) == set(CAMVID.class_names)
        pixels = [
            int(row["pixels"]) for row in rows if float(row["temperature"]) == value and row["bins_of_equal"] == "width"
        ]
        np.testing.assert_allclose(pixels, curve[0], atol=3)  # at the ends of bins
    assert found["with"]["nll"] < found["without"]["nll"]
    assert (
        not (run / "val" / "scores.json").exists()
        or (run / "val" / "scores.json").read_text() == (trained / "run" / "val" / "scores.json").read_text()
    )


def test_only_the_temperature_of_the_checkpoint_changes_and_no_label(run: Path, trained: Path) -> None:
    best, image = run / "checkpoints" / "best.ckpt", next((trained / "data" / "val").glob("*.png"))
    before = torch.load(best, weights_only=True)
    plain = hrseg.Predictor.from_checkpoint(best, device="cpu")(image, probabilities=True)
    assert main(["calibrate", str(best)]) == 0
    after = torch.load(best, weights_only=True)
    assert before["hrseg"]["temperature"] == 1
    temperature = after["hrseg"]["temperature"]
    assert temperature == json.loads((run / "calibration.json").read_text())["temperature"] != 1
    assert_same(without_temperature(before), without_temperature(after))

    predictor = hrseg.Predictor.from_checkpoint(best, device="cpu")
    assert predictor.temperature == temperature
    found = predictor(image, probabilities=True)
    np.testing.assert_array_equal(found.labels, plain.labels)
    np.testing.assert_array_equal(predictor(image), plain.labels)
    powers = plain.probabilities.astype(float) ** (1 / temperature)
    np.testing.assert_allclose(found.probabilities, powers / powers.sum(0), atol=1e-5)
    assert hrseg.SegmentationTask.load_from_checkpoint(best).temperature == temperature

    assert main(["calibrate", "run"]) == 0  # from the logits, not from what was calibrated
    assert torch.load(best, weights_only=True)["hrseg"]["temperature"] == temperature


def test_a_split_is_predicted_with_the_temperature(run: Path, trained: Path) -> None:
    assert main(["calibrate", "run"]) == 0
    best = run / "checkpoints" / "best.ckpt"
    assert main(["predict", f"--ckpt_path={best}", "--probabilities=npz", "--output=out"]) == 0
    predictor = hrseg.Predictor.from_checkpoint(best, device="cpu")
    for path in (trained / "data" / "val").glob("*.png"):
        expected = predictor(path, probabilities=True).probabilities
        found = np.load(Path("out/probabilities") / f"{path.stem}.npz")["probabilities"]
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_training_goes_on_exactly_and_drops_the_temperature(run: Path, trained: Path) -> None:
    shutil.copytree(run, "other")
    last = run / "checkpoints" / "last.ckpt"
    assert main(["calibrate", str(last)]) == 0
    assert torch.load(last, weights_only=True)["hrseg"]["temperature"] != 1
    for folder in ("run", "other"):
        arguments = [f"--config={trained / 'toy.yaml'}", f"--run_dir={folder}", "--trainer.max_epochs=3"]
        assert main(["fit", *arguments]) == 0
    one, other = (torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True) for folder in ("run", "other"))
    assert one["hrseg"]["temperature"] == other["hrseg"]["temperature"] == 1
    assert_same(one["state_dict"], other["state_dict"])
    assert_same(one["optimizer_states"], other["optimizer_states"])


def test_a_full_disk_leaves_the_checkpoint_as_it_was(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    before = best.read_bytes()

    def fail(content: object, path: Path) -> None:
        path.write_bytes(b"the beginning")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hrseg.inference.checkpoint.save_pickle", fail)
    assert main(["calibrate", "run"]) == 2
    assert "best.ckpt cannot be written: No space left" in capsys.readouterr().err
    assert best.read_bytes() == before


def test_a_checkpoint_that_is_written_meanwhile(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states = iter([(1, 1), (1, 2)])
    monkeypatch.setattr("hrseg.cli.calibration._state", lambda _: next(states))
    assert main(["calibrate", "run"]) == 2
    assert "best.ckpt was written meanwhile, as by a training; calibrate when it has ended" in capsys.readouterr().err


def test_a_split_without_labels(run: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained / "data", "data")
    for path in Path("data/valannot").glob("*.png"):
        write_image(path, np.full_like(read_label(path), 11))  # void
    assert main(["calibrate", "run", "--data.root=data"]) == 2
    assert "no pixel of the val split has a label; nothing to calibrate with" in capsys.readouterr().err
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["hrseg"]["temperature"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected the folder of a run or a checkpoint first; see hrseg calibrate --help"),
        (["--data.root=data"], "expected the folder of a run or a checkpoint first"),
        (["nowhere"], "no checkpoint at nowhere"),
        (["run/checkpoints"], "no checkpoint in run/checkpoints/checkpoints; expected the folder of a run"),
        (["foreign.ckpt", "--config={recipe}"], "foreign.ckpt is not a checkpoint of hrseg; expected best.ckpt"),
    ],
)
def test_what_cannot_be_calibrated(
    arguments: list[str], message: str, run: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    torch.save({name: value for name, value in content.items() if name != "hrseg"}, "foreign.ckpt")
    arguments = [argument.format(recipe=trained / "toy.yaml") for argument in arguments]
    assert main(["calibrate", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["calibrate", "--help"])
    assert "hrseg calibrate RUN|CHECKPOINT [options of hrseg validate]" in capsys.readouterr().out
