"""`hrseg export`, and the verbs that run its files: a training of one convolution, which takes seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hrseg.cli import main
from hrseg.inference import Predictor
from hrseg.inference.exported import read_description
from hrseg.run.folders import results_dir_of, run_dir_of
from tests.cli.conftest import RECIPE
from tests.data.datasets.test_camvid import write_camvid
from tests.exports import RUNTIMES, SUFFIXES
from tests.processes import exit_codes, start

NETWORK = [
    "--model.network=torch.nn.Conv2d",
    *(f"--model.network.init_args.{name}={value}" for name, value in (("in_channels", 3), ("out_channels", 11))),
    "--model.network.init_args.kernel_size=3",
    "--model.network.init_args.padding=same",
]
CHECKPOINT = "run/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and its files for every runtime, in run/ of a folder."""
    home = tmp_path_factory.mktemp("exported_run")
    (home / "toy.yaml").write_text(RECIPE.format(root=write_camvid(home / "camvid")))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.delenv("LOCAL_RANK", raising=False)
        fit = ["fit", "--config=toy.yaml", *NETWORK, "--run_dir=run", "--model.mean=[0.4,0.45,0.5]"]
        assert main([*fit, "--trainer.max_epochs=3"]) == 0
        for runtime in RUNTIMES:
            assert main(["export", "run", "--to", runtime, "--limit=2"]) == 0
    return home


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def file_of(runtime: str) -> str:
    return f"run/export/Conv2d{SUFFIXES[runtime]}"


def scores(folder: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "scores.json").read_text())
    return found


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line that a command ends with."""
    assert main([*arguments]) == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_scores_and_predicts_as_its_checkpoint(runtime: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, results = file_of(runtime), Path(f"{file_of(runtime)}.results")
    protocol = ["--model.test_protocol.flip=true", "--model.test_protocol.scales=[0.75,1.5]"]
    for verb, stage, more in (("validate", "val", []), ("test", "test", protocol)):
        assert main([verb, "--ckpt_path", CHECKPOINT, *more]) == 0
        ours = scores(f"run/{stage}")
        capsys.readouterr()
        assert main([verb, "--ckpt_path", file, "--trust", *more]) == 0
        printed = capsys.readouterr().out
        theirs = scores(results / stage)
        assert theirs["miou"] == pytest.approx(ours["miou"], abs=1e-4)
        own = ("miou", "pixel_accuracy", "mean_accuracy", "fwiou", "classes", "checkpoint", "weights", "step", "epoch")
        for name in theirs.keys() - {*own, "runs_on"}:
            assert theirs[name] == ours[name], name
        assert theirs["weights"] == file
        assert theirs["runs_on"] in printed
        assert f"Conv2d of {file} on CamVid, 11 classes" in printed
        assert f"{file} on val" in printed
        assert scores(f"run/{stage}") == ours  # the checkpoint's are kept
    assert (results / "test" / "contact_sheet.png").is_file()
    for extra in (["--images", "camvid/val"], []):
        for path in (CHECKPOINT, file):
            assert main(["predict", "--ckpt_path", path, "--trust", *extra]) == 0
        ours_there = sorted(Path("run/predict/labels").iterdir())
        assert ours_there
        for label in ours_there:
            same = np.asarray(Image.open(results / "predict" / "labels" / label.name)) == np.asarray(Image.open(label))
            assert same.mean() > 0.999


def test_two_processes_count_the_same() -> None:
    command = ["validate", "--ckpt_path", file_of("onnx"), "--trainer.accelerator=cpu", "--run_dir"]
    assert main([*command, "one"]) == 0
    in_two = [*command, "two", "--trainer.devices=2", "--trainer.strategy=ddp"]
    script = f"from hrseg.cli import main; raise SystemExit(main({in_two}))"
    assert exit_codes(start(script, 2, Path(), Path("two.log")), 120) == [0, 0], Path("two.log").read_text()
    one, two = scores("one/val"), scores("two/val")
    assert (one["miou"], one["images"], one["classes"]) == (two["miou"], two["images"], two["classes"])


def test_the_description_is_that_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--describe", file_of("onnx")]) == 0
    described = json.loads(capsys.readouterr().out)
    stated = Predictor.from_checkpoint(CHECKPOINT, device="cpu")
    assert described["labels"]["class_names"] == list(stated.labels.class_names)
    assert described["mean"] == pytest.approx([0.4, 0.45, 0.5])
    assert described["crop_size"] == [32, 32]
    assert len(described["weights"]) == len(described["config"]) == 64
    certificate = json.loads(Path(f"{file_of('onnx')}.certificate.json").read_text())
    assert certificate["images"] == 2
    assert certificate["beyond_ties"] == 0


def test_a_file_that_is_not_certified_stays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import hrseg.export

    def of_other_weights(network: torch.nn.Module, *others: Any) -> Any:
        return exporting(torch.nn.Conv2d(3, 11, 3, padding=1).eval(), *others)

    exporting = hrseg.export.export
    monkeypatch.setattr(hrseg.export, "export", of_other_weights)
    output = Path("bad/model.pt2")
    code = main(["export", "run", "--to=torch", "--output", str(output), "--limit=2"])
    assert code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not certified" in line]
    assert "pixels differ from PyTorch" in line
    assert output.is_file()
    assert json.loads(Path(f"{output}.certificate.json").read_text())["beyond_ties"] > 0


def test_weights_from_elsewhere_and_generated_scenes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "own.pt2"
    command = ["export", CHECKPOINT, "--to=torch", "--size=33x48", "--probabilities", "--all", "--limit=1"]
    assert main([*command, f"--output={output}", "--images", "camvid/val/0000.png"]) == 0
    assert read_description(output).outputs == ("labels", "confidence", "probabilities")
    assert read_description(output).size == (33, 48)
    assert run_dir_of(output) is results_dir_of(output) is None
    assert "pixels of 1 images differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--config=toy.yaml", "--ckpt_path=FILE"], "is an exported file, which cannot be trained"),
        (["fit", "--config=toy.yaml", "--model.weights=FILE"], "whose weights no network can load"),
        (["validate", "--ckpt_path=FILE", "--model.mean=[0.1,0.2,0.3]"], "mean is (0.1, 0.2, 0.3), but FILE was"),
        (["validate", "--ckpt_path=FILE", "--data.input_size=[32,32]"], "input_size is (32, 32), but FILE was"),
        (["test", "--ckpt_path=FILE", "--data=hrseg.StreetScenesDataModule"], "FILE has 11 classes"),
        (["validate", "--ckpt_path=run/export/absent.onnx"], "no file run/export/absent.onnx"),
        (["validate", "--ckpt_path=run/export/Conv2d.pt2"], "give --trust"),
        (["predict", "--ckpt_path=FILE", "--images=run", "--device=cuda:9"], "ONNX Runtime cannot use device cuda:9"),
        (["predict", "--ckpt_path=FILE", "--images=run", "--labels=camvid"], "whose weights no network can load"),
        (["export", "FILE", "--to=torch"], "whose weights no network can load"),
        (["export", "run"], "expected what to export, and --to"),
        (["export", "--to=onnx"], "expected what to export, and --to"),
        (["export", "run", "--to=coreml"], "invalid choice: 'coreml'"),
        (["export", "run", "--to=onnx", "--output=a.pt2"], "expected the suffix .onnx"),
        (["export", "run", "--to=onnx", "--all"], "--all goes with --probabilities"),
        (["export", "run", "--to=onnx", "--compile"], "--compile goes with --to torch"),
        (["export", "run", "--to=onnx", "--limit=0"], "--limit is 0; expected 1 or more"),
        (["export", "run/val", "--to=onnx"], "no checkpoint in run/val/checkpoints"),
        (["export", "absent.ckpt", "--to=onnx"], "no file absent.ckpt"),
        (["export", "run", "--to=onnx", "--images", "absent.png"], "absent.png"),
        (["export", "--describe", "toy.yaml"], "toy.yaml is no exported file"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = file_of("onnx")
    before = sorted(os.listdir("run/export"))
    line = refusal(capsys, *(argument.replace("FILE", file) for argument in arguments))
    assert message.replace("FILE", file) in line
    assert sorted(os.listdir("run/export")) == before
