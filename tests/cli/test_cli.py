from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hrseg
from hrseg.cli import VERBS, main

CAMVID = ["--data=hrseg.CamVidDataModule", "--data.batch_size=2", "--data.crop_size=[32,32]", "--data.num_workers=0"]
TINY = ["--model.network=hrnetv2_w18_small_v1", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
CROSS_ENTROPY = ["--model.loss=hrseg.losses.CrossEntropyLoss"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HRSEG_TRACE", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)


@pytest.mark.parametrize("arguments", [["models"], ["benchmark"], ["predict", "--images"], ["verify"]], ids=" ".join)
def test_help_of_a_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: hrseg {arguments[0]}")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"hrseg {hrseg.__version__}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], "did you mean fit"),
        (["--config", "x", "fit"], "stands before the verb"),
        (["models", "resnet"], "unknown model 'resnet'"),
        (["models", "--fast"], "unrecognized arguments: --fast; see hrseg models --help"),
        (["predict", "--images", "street.jpg"], "required: --ckpt_path"),
        (["fit"], "give --config"),
        (["fit", "--config", "none.yaml"], "none.yaml"),
        (["fit", *CAMVID, *TINY, "--data.root=here", "--model.netwrk=x"], "netwrk"),
        (["fit", *CAMVID, *TINY, "--data.batch_sze=2"], "batch_sze"),
        (["fit", *CAMVID, *TINY, "--data.batch_size=abc"], "batch_size: Expected a <class 'int'>"),
        (["fit", *CAMVID, *TINY, "--data.root=here", "--data.crop_size=[16,16]"], "expected 32 or more"),
        (["fit", *CAMVID, *TINY, "--data.root=here", "--data.val_split=vall"], "did you mean val"),
        (["fit", *CAMVID, *TINY, "--data.root=here", "--model.network=hrnetv2_w49"], "or hrnetv2_w48"),
        (
            ["fit", *CAMVID, *TINY, "--data.root=here", *CROSS_ENTROPY, "--model.loss.class_weights=[1,2]"],
            "2 class weights for the 11 classes of CamVid",
        ),
        (["test", *CAMVID, *TINY, "--data.root=here"], "needs trained weights"),
        (["test", *CAMVID, *TINY, "--data.root=here", "--model.weights=imagenet"], "leaves the head of hrnetv2"),
        (["test", *CAMVID, *TINY, "--data.root=here", "--model.weights=null"], "model.weights is None, which leaves"),
        (["test", *CAMVID, *TINY, "--data.root=here", "--ckpt_path=none.ckpt"], "no checkpoint at none.ckpt"),
        (["test", "--ckpt_path=runs/toy/0/checkpoints/best.ckpt"], "no checkpoint at runs/toy/0"),
        (["predict", "--images", "none", "--ckpt_path", "none.ckpt"], "no image at none"),
    ],
    ids=lambda value: " ".join(value)[-50:] if isinstance(value, list) else "",
)
def test_a_mistake_is_told_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("hrseg: ")
    assert len(captured.err.splitlines()) == 1
    assert "runs" not in [path.name for path in tmp_path.iterdir()] or arguments[0] == "fit"


def test_trace_shows_where_an_error_arose() -> None:
    with pytest.raises(hrseg.HrsegError):
        main(["fitt", "--trace"])
    script = "from hrseg.cli import main; raise SystemExit(main())"
    result = subprocess.run(
        [sys.executable, "-c", script, "fitt"], capture_output=True, text=True, env={"HRSEG_TRACE": "1"}
    )
    assert "Traceback" in result.stderr


def test_data_that_are_missing_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *CAMVID, *TINY, "--data.root=nowhere", "--run_dir=run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nowhere" in line
    assert "trainannot" in line or "SPLITannot" in line
    assert not Path("run").exists()
