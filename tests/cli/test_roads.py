"""Every verb on the run of a one-step training, with the options of the README, in one and in two processes."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
import yaml

import hrseg
from hrseg.cli import main
from hrseg.inference import Protocol
from hrseg.utils.images import read_image, read_label
from tests.data.datasets.test_camvid import write_camvid
from tests.data.datasets.test_cityscapes import write_cityscapes
from tests.processes import exit_codes, start

RECIPE = """
model:
  network: hrnetv2_w18_small_v1
data:
  class_path: hrseg.{data}DataModule
  init_args: {{root: {root}, batch_size: 2, crop_size: [32, 32], predict_split: {split}, num_workers: 0}}
trainer: {{accelerator: cpu, max_epochs: 1, limit_train_batches: 1, log_every_n_steps: 1}}
"""
WRITERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "CamVid": (write_camvid, "val"),
    "Cityscapes": (write_cityscapes, "test"),
}


@dataclass
class Run:
    """A run of one step, and its data."""

    folder: Path
    root: Path
    recipe: Path
    predicted: int

    @property
    def best(self) -> str:
        return f"--ckpt_path={self.folder / 'checkpoints' / 'best.ckpt'}"


@pytest.fixture(scope="module", params=WRITERS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    place = tmp_path_factory.mktemp(request.param)
    write, split = WRITERS[request.param]
    root = write(place / "data")
    recipe = place / "toy.yaml"
    recipe.write_text(RECIPE.format(data=request.param, root=root, split=split))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name in ("LOCAL_RANK", "HRSEG_RUN_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("HRSEG_HOME", str(place / "home"))
        assert main(["fit", f"--config={recipe}"]) == 0
        yield Run(Path("runs/toy/0"), root, recipe, 2)


def test_it_resumes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--trainer.max_epochs=2", "--timeout_minutes=20"]
    assert main(["fit", f"--config={run.recipe}", f"--run_dir={run.folder}", *options]) == 0
    assert "resuming from" in capsys.readouterr().out


def test_its_config_repeats_it(run: Run) -> None:
    before = (run.folder / "config.yaml").read_text()
    assert main(["fit", f"--config={run.folder / 'config.yaml'}", "--experiment=again"]) == 0
    assert "experiment: again" in Path("runs/again/0/config.yaml").read_text()
    assert (run.folder / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("validate", ()),
        ("test", ()),
        ("test", ("--model.test_protocol.scales=[0.5, 1.0]", "--model.test_protocol.flip=true")),
        ("validate", ("--model.val_protocol=slide", "--data.eval_batch_size=2", "--timeout_minutes=20")),
    ],
)
def test_it_is_scored(run: Run, verb: str, options: tuple[str, ...]) -> None:
    assert main([verb, run.best, *options]) == 0
    assert "miou" in json.loads((run.folder / verb.replace("validate", "val") / "scores.json").read_text())


def test_its_split_is_predicted_and_packed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", run.best]) == 0
    assert len(list((run.folder / "predict" / "labels").iterdir())) == run.predicted
    assert main(["submit", str(run.folder)]) == 0
    assert f"{run.predicted} predictions of" in capsys.readouterr().out
    assert len(zipfile.ZipFile(run.folder / "submission.zip").namelist()) == run.predicted

    name = next((run.folder / "predict" / "labels").iterdir()).name
    found = run.root.rglob(f"{Path(name).stem}*.png")
    own = next(path for path in found if {"val", "leftImg8bit"} & {*path.relative_to(run.root).parts})
    for image, code in ((own, 0), (shutil.copy(own, name), 2)):  # the split's own, and another of its name
        assert main(["predict", run.best, "--images", str(image)]) == 0
        assert main(["submit", str(run.folder)]) == code
        assert (f"{name} is of {Path(name).absolute()}" in capsys.readouterr().err) == (code == 2)

    assert main(["predict", run.best]) == 0
    moved = run.root.with_name("moved")
    run.root.rename(moved)
    try:
        assert main(["submit", str(run.folder), f"--root={moved}", "--output=other.zip"]) == 0
    finally:
        moved.rename(run.root)


def test_any_images_are_predicted(run: Run) -> None:
    image = next(run.root.rglob("val/**/*.png"))
    arguments = ["predict", run.best, "--images", str(image)]
    assert main(arguments) == 0
    assert main([*arguments, "--output=mirrored", "--device=cpu", "--protocol=lip"]) == 0
    height, width = read_image(image).shape[:2]
    for folder in (run.folder / "predict", "mirrored"):
        assert read_label(Path(folder, "labels", image.name)).shape == (height, width)
    labels = hrseg.Predictor.from_checkpoint(run.folder / "checkpoints" / "last.ckpt", device="cpu")(image)
    assert labels.shape == (height, width)


@pytest.mark.parametrize("run", ["CamVid"], indirect=True)
def test_a_split_and_any_images_are_predicted_with_the_same_options_to_the_same_files(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--device=cpu", "--protocol=lip"]
    assert main(["predict", run.best, "--output=split", *options]) == 0
    assert main(["predict", run.best, "--output=images", *options, "--images", str(run.root / "val")]) == 0
    printed = capsys.readouterr().out
    assert all(f"label ids: {folder}/labels\noverlays: {folder}/overlays" in printed for folder in ("split", "images"))
    split, images = (
        {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*.png")}
        for folder in ("split", "images")
    )
    assert split == images
    assert {path.parent.name for path in split} == {"labels", "overlays"}


@pytest.mark.parametrize("run", ["CamVid"], indirect=True)
def test_a_split_and_any_images_have_the_same_certainty(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to rounding, as only `--images` folds batch norm."""
    options = ["--device=cpu", "--protocol=lip", "--confidence", "--probabilities=npz"]
    assert main(["predict", run.best, "--output=one", *options]) == 0
    assert main(["predict", run.best, "--output=other", *options, "--images", str(run.root / "val")]) == 0
    printed = capsys.readouterr().out
    for folder in ("one", "other"):
        assert f"confidence: {folder}/confidence, times 255" in printed
        assert f"probabilities of all classes: {folder}/probabilities" in printed
    names = sorted(path.relative_to("one") for path in Path("one").rglob("*.*"))
    assert names == sorted(path.relative_to("other") for path in Path("other").rglob("*.*"))
    assert len(names) == 4 * run.predicted
    for name in names:
        if name.parent.name == "confidence":
            one, other = (read_label(Path(folder, name)).astype(int) for folder in ("one", "other"))
            assert abs(one - other).max() <= 1
        elif name.suffix == ".npz":
            one, other = (np.load(Path(folder, name))["probabilities"] for folder in ("one", "other"))
            np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("run", ["CamVid"], indirect=True)
def test_a_split_and_any_images_are_predicted_in_half_precision(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for images in ([], ["--images", str(run.root / "val")]):
        assert main(["predict", run.best, "--output=half", "--device=cpu", "--precision=bf16", *images]) == 0
        assert "on cpu, bf16" in capsys.readouterr().out
    assert main(["predict", run.best, "--device=cpu", "--precision=fp16", "--images", str(run.root)]) == 2
    assert capsys.readouterr().err == "hrseg: precision fp16 needs a GPU; a CPU takes fp32 and bf16\n"


@pytest.mark.parametrize("run", ["CamVid"], indirect=True)
def test_confidence_of_12_bits_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", run.best, "--confidence=12"]) == 2
    assert capsys.readouterr().err == "hrseg: confidence: expected one of 8, 16\n"
    assert main(["predict", run.best, "--images", str(run.root), "--confidence=12"]) == 2
    assert "--confidence: invalid choice: 12 (choose from 8, 16)" in capsys.readouterr().err


@pytest.mark.parametrize("run", ["CamVid"], indirect=True)
def test_a_checkpoint_is_read_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = torch.load
    monkeypatch.setattr("torch.load", lambda *args, **kwargs: read.append("") or load(*args, **kwargs))
    data = hrseg.CamVidDataModule(run.root, 2, (32, 32), num_workers=0)
    shutil.copytree(run.folder, "copy")
    weights = f"--model.weights={run.folder / 'checkpoints' / 'best.ckpt'}"
    image = str(next(run.root.rglob("val/*.png")))
    commands: list[Callable[[], object]] = [
        *(partial(main, [verb, run.best]) for verb in ("validate", "test", "predict")),
        *(partial(main, [verb, f"--config={run.recipe}", weights]) for verb in ("validate", "test", "predict")),
        partial(main, ["predict", run.best, "--images", image, "--output=once"]),
        partial(main, ["fit", f"--config={run.recipe}", "--run_dir=copy", "--trainer.max_epochs=3"]),
        partial(main, ["fit", f"--config={run.recipe}", "--run_dir=on", run.best, "--trainer.max_epochs=3"]),
        partial(hrseg.Predictor.from_checkpoint, run.folder / "checkpoints" / "best.ckpt", device="cpu"),
        partial(hrseg.SegmentationTask.load_from_checkpoint, run.folder / "checkpoints" / "best.ckpt"),
        partial(hrseg.fit, hrseg.SegmentationTask("hrnetv2_w18_small_v1", data.labels), data, run_dir="copy"),
    ]
    for command in commands:
        command.keywords.update({"max_epochs": 4, "accelerator": "cpu"} if command.func is hrseg.fit else {})  # type: ignore[attr-defined]
        assert command() not in (1, 2)
        assert len(read) == 1, command
        read.clear()


def test_its_data_are_verified(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    config = f"--config={run.folder / 'config.yaml'}"
    main(["verify", config, "--json=report.json"])  # other tests check the findings
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "class_weights" in captured.out
    assert json.loads(Path("report.json").read_text())["splits"]
    main(["verify", config, f"--data.root={run.root}"])
    assert capsys.readouterr().err == ""


def test_its_weights_start_another_training(run: Run) -> None:
    weights = f"--model.weights={run.folder / 'checkpoints' / 'best.ckpt'}"
    further = ["fit", f"--config={run.recipe}", weights, "--run_dir=further"]
    assert main(further) == 0
    assert main([*further, "--trainer.max_epochs=2"]) == 0
    model = yaml.safe_load(Path("further/config.yaml").read_text())["model"]
    assert weights.endswith(f"={model['weights']}")  # though the restart read only its checkpoint
    assert model["network_args"] is None
    assert main(["test", f"--config={run.recipe}", weights, "--run_dir=tested"]) == 0


def in_python(run: Run, folder: str, **settings: Any) -> Path:
    """A run of `hrseg.fit` on the same data."""
    config = yaml.safe_load((run.folder / "config.yaml").read_text())["data"]
    kind = getattr(hrseg, config["class_path"].rpartition(".")[2])
    flip = A.OneOf([A.VerticalFlip(p=1.0), A.Transpose()], p=0.5)
    data = kind(run.root, 2, (32, 32), predict_split=config["init_args"]["predict_split"], transforms=[flip])
    task = hrseg.SegmentationTask(**{"network": "hrnetv2_w18_small_v1", "labels": data.labels, **settings})
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "limit_train_batches": 1}
    hrseg.fit(task, data, run_dir=folder, **options)
    return Path(folder)


@pytest.mark.parametrize("run", ["Cityscapes"], indirect=True)
def test_a_run_of_python_is_one_of_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = in_python(
        run,
        "of_python",
        network=hrseg.create_model("hrnetv2_w18_small_v1", run_classes(run), fuse_mode="nearest"),
        optimizer=partial(torch.optim.AdamW, lr=1e-5, betas=(0.5, 0.9)),
        test_protocol=Protocol((0.5, 1.0), flip=True),
        warmup_steps=1,
    )
    assert "config.yaml" not in capsys.readouterr().out
    assert "# without the weights that the network had" in (folder / "config.yaml").read_text()
    best = f"--ckpt_path={folder / 'checkpoints' / 'best.ckpt'}"
    assert [main([verb, best]) for verb in ("validate", "test", "predict")] == [0, 0, 0]
    assert main(["submit", str(folder)]) == 0
    assert main(["predict", best, "--images", str(next(run.root.rglob("val/**/*.png"))), "--output=of_python/any"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    main(["verify", f"--config={folder / 'config.yaml'}"])
    assert main(["fit", f"--config={folder / 'config.yaml'}", "--run_dir=repeated"]) == 0
    capsys.readouterr()
    assert main(["fit", f"--config={folder / 'config.yaml'}", f"--run_dir={folder}", "--trainer.max_epochs=2"]) == 0
    assert "settings that differ from" in (out := capsys.readouterr().out)
    assert "model." not in out  # trainer.max_epochs alone
    one, other = (
        hrseg.SegmentationTask.load_from_checkpoint(f"{place}/checkpoints/best.ckpt") for place in (folder, "repeated")
    )
    assert one.network.config == other.network.config
    assert one.test_protocol == other.test_protocol == Protocol((0.5, 1.0), flip=True)
    (group,) = one.make_optimizer([{"params": [torch.nn.Parameter(torch.ones(1))]}]).param_groups
    assert (group["lr"], group["betas"]) == (1e-5, (0.5, 0.9))


def run_classes(run: Run) -> int:
    return hrseg.SegmentationTask.load_from_checkpoint(run.folder / "checkpoints" / "best.ckpt").labels.num_classes


@pytest.mark.parametrize("run", ["CamVid"], indirect=True)
def test_a_run_of_python_that_cannot_be_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = in_python(run, "own", network=torch.nn.Conv2d(3, 11, 1))
    told = (
        "no config.yaml, as it cannot describe model.network (a Conv2d, whose arguments are not known): hrseg validate"
    )
    assert told in capsys.readouterr().out
    assert not (folder / "config.yaml").exists()
    folder = in_python(run, "scheduled", schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1))
    assert "config.yaml lacks model.schedule (the function <lambda>)" in capsys.readouterr().out
    assert "# without model.schedule" in (folder / "config.yaml").read_text()
    assert main(["validate", f"--ckpt_path={folder / 'checkpoints' / 'best.ckpt'}"]) == 0


@pytest.mark.parametrize("run", ["Cityscapes"], indirect=True)
def test_two_processes(run: Run, tmp_path: Path) -> None:
    """All verbs in two processes, which run one verb after the other."""
    again, two = f"--run_dir={tmp_path / 'run'}", ["--trainer.devices=2", "--trainer.strategy=ddp"]
    best = f"--ckpt_path={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}"
    commands = [
        ["fit", f"--config={run.recipe}", again, *two],
        ["fit", f"--config={run.recipe}", again, *two, "--trainer.max_epochs=2"],
        *([verb, best, *two] for verb in ("validate", "test", "predict")),
        ["calibrate", str(tmp_path / "run"), *two],
    ]
    script = f"import sys; from hrseg.cli import main; sys.exit(max(main(command) for command in {commands}))"
    ranks = start(script, 2, Path.cwd(), tmp_path / "output.txt")
    assert exit_codes(ranks, timeout=200) == [0, 0], (tmp_path / "output.txt").read_text()
    assert len(list((tmp_path / "run" / "predict" / "labels").iterdir())) == run.predicted
    assert main(["submit", str(tmp_path / "run")]) == 0

    of_two = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert main(["calibrate", str(tmp_path / "run"), "--trainer.devices=1", "--trainer.strategy=auto"]) == 0
    of_one = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert of_two["temperature"] == of_one["temperature"]
    for way in ("without", "with"):
        assert of_two[way]["ece"] == pytest.approx(of_one[way]["ece"], abs=1e-4)
