from __future__ import annotations

import errno
import fcntl
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import hrseg
from hrseg.cli import VERBS, main
from hrseg.errors import DataFileError

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
        (["--config", "x", "fit"], "option --config before the verb"),
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
        (["predict", "--images", "none", "--ckpt_path", "none.ckpt"], "no file or folder none"),
    ],
    ids=lambda value: " ".join(value)[-50:] if isinstance(value, list) else "",
)
def test_a_mistake_is_reported_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("hrseg: ")
    assert len(captured.err.splitlines()) == 1
    assert "runs" not in [path.name for path in tmp_path.iterdir()] or arguments[0] == "fit"


WORKER = """Caught DataFileError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "loader.py", line 1, in get
    raise DataFileError(path)
hrseg.errors.DataFileError: 0003.png is truncated
"""


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "cannot fetch it (Not\nFound). These links were copied\n",
            "cannot fetch it (Not Found). These links were copied",
        ),
        ("entry a\r\nb is missing", "entry a b is missing"),
        ("entry \x1b[31mred\x07\u202e\udcff is missing", r"entry \x1b[31mred\x07\u202e\udcff is missing"),
        ("Straße 東京 is missing", "Straße 東京 is missing"),
        (WORKER, "0003.png is truncated"),
        (WORKER.replace("is truncated", "is\ntruncated"), "0003.png is truncated"),
    ],
)
def test_a_message_of_several_lines_is_reported_whole_in_one(
    message: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(verb: str, arguments: list[str]) -> int:
        raise DataFileError(message)

    monkeypatch.setitem(sys.modules, "failing", SimpleNamespace(run=run))  # type: ignore[arg-type]
    monkeypatch.setitem(VERBS, "fail", ("failing", "fails"))
    assert main(["fail"]) == 2
    assert capsys.readouterr().err == f"hrseg: {told}\n"


@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.EACCES, "; choose a place that you may"), (errno.ENOSPC, "; make room, or choose")]
)
def test_only_a_full_disk_is_to_be_emptied(
    code: int, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(verb: str, arguments: list[str]) -> int:
        raise OSError(code, os.strerror(code), "file.png")

    monkeypatch.setitem(sys.modules, "failing", SimpleNamespace(run=run))  # type: ignore[arg-type]
    monkeypatch.setitem(VERBS, "fail", ("failing", "fails"))
    assert main(["fail"]) == 2
    assert remedy in capsys.readouterr().err


def test_the_package_is_the_command_too() -> None:
    command = [sys.executable, "-m", "hrseg"]
    result = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, cwd=Path(hrseg.__file__).parents[1]
    )
    assert (result.returncode, result.stdout.strip()) == (0, f"hrseg {hrseg.__version__}")
    result = subprocess.run([*command, "fitt"], capture_output=True, text=True, cwd=Path(hrseg.__file__).parents[1])
    assert (result.returncode, result.stderr.strip()) == (2, "hrseg: unknown verb 'fitt'; did you mean fit or test?")


def test_trace_shows_where_an_error_arose() -> None:
    with pytest.raises(hrseg.HrsegError):
        main(["fitt", "--trace"])
    script = "from hrseg.cli import main; raise SystemExit(main())"
    result = subprocess.run(
        [sys.executable, "-c", script, "fitt"], capture_output=True, text=True, env={"HRSEG_TRACE": "1"}
    )
    assert "Traceback" in result.stderr


def test_data_that_are_missing_are_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *CAMVID, *TINY, "--data.root=nowhere", "--run_dir=run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nowhere" in line
    assert "trainannot" in line or "SPLITannot" in line
    assert not Path("run").exists()


def test_a_second_training_in_a_folder_is_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrseg.run.folders._LOCK_TIMEOUT", 0.1)
    Path("run").mkdir()
    with Path("run/.lock").open("w") as lock:
        lock.write("process 7 on node3")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["fit", *CAMVID, *TINY, "--data.root=nowhere", "--run_dir=run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hrseg: run is in use by another training, process 7 on node3; ")
    assert os.listdir("run") == [".lock"]


@pytest.mark.parametrize("named_in", ["options", "a config", "a config of another folder"])
def test_classes_of_the_working_directory_are_found_and_stand_for_no_library(
    named_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They used to be missed if the config naming them was elsewhere, such as a run's config.yaml."""
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    monkeypatch.setattr("sys.meta_path", [*sys.meta_path])
    (tmp_path / "albumentations.py").write_text("raise AssertionError")
    (tmp_path / "of_a_user").mkdir()
    (tmp_path / "of_a_user" / "streets.py").write_text(
        "import hrseg\n\nclass Streets(hrseg.CamVidDataModule):\n    layout = 'streets of a user'\n"
    )
    (tmp_path / "not_installed" / "runs").mkdir(parents=True)
    for name in ("of_a_user", "of_a_user.streets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    named = ["--data=of_a_user.streets.Streets"]
    if named_in != "options":
        config = tmp_path / ("run" if "another" in named_in else "") / "config.yaml"
        config.parent.mkdir(exist_ok=True)
        config.write_text("data: {class_path: of_a_user.streets.Streets}")
        named = [f"--config={config}"]
    assert main(["fit", *named, *CAMVID[1:], *TINY, "--data.root=nowhere"]) == 2
    assert "expected streets of a user in it" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("not_installed")
