from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from hrseg.cli import main
from hrseg.cli.weights import run
from hrseg.errors import ConfigError, HrsegError
from hrseg.models import create_model
from hrseg.models.weights.published import ZOO
from hrseg.models.weights.zoo import list_weights

HAND = "hrnetv2_w48.lip_master"
SMALL = "hrnetv2_w18_small_v1.cityscapes"  # by hand, too
HASHED = "hrnetv2_w48.cityscapes_mmseg"
HASHED_FILE = ZOO[HASHED].mirrors[0].file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    return tmp_path / "home"


def test_list(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert run("weights", ["list"]) == 0
    head, *rows, blank, foot = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "published", "from", "here", "trained", "on"]
    assert [row.split()[0] for row in rows] == list_weights()
    assert len(rows) == len(ZOO)
    assert blank == ""
    assert "not measured here. The links were not tried" in foot

    (home / "weights" / HAND).mkdir(parents=True)
    (home / "weights" / HAND / ZOO[HAND].page_file).touch()
    assert run("weights", ["list", "hrnetv2_w48.[il]*"]) == 0
    _, *rows, _, _ = capsys.readouterr().out.splitlines()
    assert [" ".join(row.split()) for row in rows] == [
        "hrnetv2_w48.imagenet 20.7 top-1 error hub, 2 links ImageNet-1k",
        "hrnetv2_w48.imagenet_cutmix 18.9 top-1 error 1 link ImageNet-1k",
        "hrnetv2_w48.imagenet_ssld 16.4 top-1 error hub, 1 link ImageNet-1k",
        "hrnetv2_w48.lip 55.83 mIoU 1 link LIP train",
        "hrnetv2_w48.lip_master 56.04 mIoU by hand yes LIP train",
    ]


def test_all_of_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("weights", ["list", HASHED]) == 0
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    shown = {title: content.strip() for title, content in shown.items()}
    assert shown["published"] == "80.65 mIoU, Cityscapes val, whole image, one scale"
    assert shown["multi-scale"] == "81.92 mIoU"
    assert shown["licence"] == "Apache-2.0"
    assert shown["parameters"] == "num_classes=19, align_corners=False"
    assert shown["images"] == "RGB, mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)"
    assert shown["here"] == "no"
    assert shown["place 1"].startswith(
        "https://download.openmmlab.com/mmsegmentation/v0.5/hrnet/fcn_hr48_512x1024_160k"
    )
    assert shown["place 1"].endswith("-59b7973e.pth  sha256 59b7973e...")
    assert "by hand" not in shown


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_name_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("weights", ["list", name]) == 0
    text = capsys.readouterr().out
    for fact in (*ZOO[name].files, ZOO[name].protocol, ZOO[name].note, ZOO[name].page):
        assert fact in text


def test_by_hand_then_get_and_check(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    download = tmp_path / "Download.pth"
    torch.save(create_model("hrnetv2_w18_small_v1").state_dict(), download)
    path = home / "weights" / SMALL / ZOO[SMALL].page_file
    assert run("weights", ["check"]) == 0
    text = (
        f"none of these {len(ZOO)} weights is on this machine, neither in {home / 'weights'} nor in the hub's cache\n"
    )
    assert capsys.readouterr().out == text
    assert run("weights", ["get", SMALL, "--from", str(download)]) == 0
    assert run("weights", ["get", SMALL]) == 0
    assert capsys.readouterr().out == f"{path}\n{path}\n"
    assert run("weights", ["check", "hrnetv2*"]) == 0
    assert capsys.readouterr().out == f"{SMALL}: {path} is as downloaded\n"
    path.write_bytes(b"damaged")
    assert run("weights", ["check", SMALL]) == 1
    line = capsys.readouterr().out
    assert line.startswith(f"{SMALL}: {path} has sha256 ")
    assert line.endswith(" when the file was downloaded; remove it and download it again\n")


def test_weights_of_a_network_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", "hrnetv2_w44_ocr"]) == 0
    assert "\nhrnetv2_w44.imagenet " in capsys.readouterr().out
    assert main(["weights", "list", "hrnetv2_w48"]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:-2]] == list_weights("hrnetv2_w48.*")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"required: list\|get\|check\|convert; see hrseg weights --help"),
        (["fetch"], "invalid choice: 'fetch'"),
        (["list", "unet*"], r"unknown weights 'unet\*'"),
        (["get"], "required: NAME; see hrseg weights get --help"),
        (
            ["get", "hrnetv2_w48.cityscape"],
            r"unknown weights 'hrnetv2_w48\.cityscape'; did you mean hrnetv2_w48\.cityscapes",
        ),
        (["get", HAND], "its link needs a browser: OneDrive or Baidu"),
        (["get", HAND, "--from", "none.pth"], r"no file none\.pth; expected the manually downloaded file"),
        (["get", HAND, HASHED, "--from", "x.pth"], r"--from x\.pth is one file, for 2 names"),
        (
            ["get", HASHED, "--from", "toy.txt"],
            r"toy\.txt has another suffix than fcn_hr48.*-59b7973e\.pth; give the file",
        ),
        (["get", HASHED, "--from", HASHED_FILE], r"-59b7973e\.pth has a sha256 that starts with .*; expected 59b7973e"),
        (["check", HAND], f"{HAND} is neither in .* `hrseg weights get {HAND}` downloads it, or says how to"),
        (["check", "nothing"], "unknown weights 'nothing'"),
        (["get", "hrnetv2_w44"], "hrnetv2_w44 is a network; give one of its weights: hrnetv2_w44.imagenet$"),
        (["get", "imagenet"], r"there are imagenet weights of several networks; give hrformer_b\.imagenet or"),
        (["list", "hrnetv2_w84"], "unknown weights 'hrnetv2_w84'; did you mean hrnetv2_w64"),
        (["convert", "hrnetv2_w44", "x.pth", "--to", "timm"], "hrnetv2_w44 is a network; give one of its weights"),
        (["convert", "hrnetv2_w44.imagnet", "x.pth", "--to", "timm"], "did you mean hrnetv2_w44.imagenet"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("toy.txt", HASHED_FILE):
        Path(file).write_bytes(b"other weights")
    with pytest.raises(HrsegError, match=message) as caught:
        run("weights", arguments)
    assert "\n" not in str(caught.value)


def test_nothing_is_fetched_before_all_names_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrseg.cli.weights.get_weights", lambda name: pytest.fail("downloaded"))
    with pytest.raises(HrsegError, match="did you mean"):
        run("weights", ["get", HASHED, "hrnetv2_w48.imagnet"])
    with pytest.raises(ConfigError):
        run("weights", ["get", HASHED, HAND, "--from", "x"])


def test_a_failure_does_not_stop_what_was_asked_for_besides(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "weights" / SMALL / ZOO[SMALL].page_file
    path.parent.mkdir(parents=True)
    path.touch()
    assert main(["weights", "get", HAND, SMALL, "hrnetv2_w48.pascal_context_60"]) == 2
    output, errors = capsys.readouterr()
    assert output == f"{path}\n"
    first, second = errors.splitlines()
    assert first.startswith(f"hrseg: {HAND} is not in {home / 'weights' / HAND}, and its link needs a browser: ")
    assert second.startswith("hrseg: hrnetv2_w48.pascal_context_60 is not in ")


def test_waiting_for_another_process_is_reported(home: Path, tmp_path: Path) -> None:
    folder = home / "weights" / "hr_rnet_bt_w20.imagenet_openseg"
    folder.mkdir(parents=True)
    (tmp_path / "w.pth").write_bytes(b"weights")
    command = "import sys; from hrseg.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["weights", "get", folder.name, "--from", str(tmp_path / "w.pth")]
    with FileLock(folder / ".lock"):
        process = subprocess.Popen([sys.executable, "-c", command, *arguments], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        line = process.stderr.readline()
    assert line == f"waiting for another process, which works in {folder}\n"
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", [["check"], ["get", SMALL]])
def test_what_a_killed_process_left_is_cleared_away(arguments: list[str], home: Path) -> None:
    path = home / "weights" / SMALL / ZOO[SMALL].page_file
    left = path.with_name(".hrseg-0123.w.pth")
    left.parent.mkdir(parents=True)
    torch.save(create_model("hrnetv2_w18_small_v1").state_dict(), path)
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 100_000,) * 2)
    assert run("weights", arguments) == 0
    assert not left.exists()


@pytest.mark.parametrize("arguments", [["--help"], ["get", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("weights", arguments)
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: hrseg weights")
