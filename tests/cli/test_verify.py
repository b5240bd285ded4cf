from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from hrseg.cli import main
from hrseg.utils.images import write_image

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CAMVID = ["--data=hrseg.CamVidDataModule", "--data.batch_size=2", "--data.crop_size=[32,32]"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))


def test_a_sound_data_set_ends_with_0_and_a_faulty_one_with_1(
    camvid_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["verify", *CAMVID, f"--data.root={camvid_root}", "--json=out/report.json"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for text in (
        "CamVid: 5 train, 2 val",
        "pedestrian",
        "all 7 images and their labels were checked\n",
        "nothing is wrong",
    ):
        assert text in out
    assert main(arguments) == 0
    assert "all 7 images and their labels are unchanged since the last check" in capsys.readouterr().out
    report = json.loads(Path("out/report.json").read_text())
    assert report["findings"] == {}
    assert report["splits"]["train"]["classes"]["sky"]["images"] == 5
    for rule, weights in report["class_weights"].items():
        assert f"class_weights: {weights}  # {rule} of train" in out

    for number in range(5):
        write_image(camvid_root / "trainannot" / f"{number:04d}.png", np.full((48, 64), 12, np.uint8))
    (camvid_root / "valannot" / "0000.png").unlink()
    write_image(camvid_root / "train" / "0005.png", np.zeros((48, 64, 3), np.uint8))
    write_image(camvid_root / "trainannot" / "0005.png", np.full((48, 64), 12, np.uint8))
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "7 of 8 images and their labels were checked; the others are unchanged" in out
    assert "missing files: 1\n" in out
    assert "labels with values outside the table: 6\n" in out
    assert "and 1 more; --json FILE" in out
    report = json.loads(Path("out/report.json").read_text())
    assert len(report["findings"]["labels with values outside the table"]) == 6


def test_of_recipes_the_data_count_and_the_last_word_wins(
    camvid_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe,) = EXPERIMENTS.glob("camvid/*.yaml")
    overlay = EXPERIMENTS / "options" / "ema.yaml"
    rest = Path("rest.yaml")  # other settings of a run's config.yaml
    rest.write_text("experiment: a\nrun_dir: null\nckpt_path: null\nweights_only: null\n")
    configs = [f"--config={path}" for path in (recipe, overlay, rest)]
    assert main(["verify", *configs, f"--data.root={camvid_root}"]) == 0
    assert "CamVid: 5 train, 2 val" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the data set is not known; give --config with a recipe, or --data"),
        (["--config", "none.yaml"], "none.yaml"),
        ([*CAMVID, "--data.rot=x"], "rot"),
        ([*CAMVID, "--data.root=nowhere"], "no image of CamVid in"),
        ([*CAMVID, "--data.root=nowhere", "--data.val_split=vall"], "did you mean val"),
        (["--data=hrseg.FolderDataModule", "--data.root=nowhere"], "classes.yaml cannot be read"),
        (["--guess", "nowhere"], "no mask *.png in"),
        (["--faster"], "faster"),
        (["--guess", "nowhere", "--faster"], "unrecognized arguments: --faster"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_reported_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_from_a_folder_of_masks_to_a_verified_data_set(folder_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (2, 5, 8):  # those in colour
        for path in folder_root.glob(f"*/*/{number:02d}.*"):
            path.unlink()
    assert main(["verify", "--guess", str(folder_root)]) == 2
    assert "is there already and may have been edited; remove it, or give --output" in capsys.readouterr().err
    assert main(["verify", "--guess", str(folder_root), "--output", "new/classes.yaml"]) == 0
    assert "classes: new/classes.yaml" in capsys.readouterr().out
    assert yaml.safe_load(Path("new/classes.yaml").read_text())["ids"] == [0, 1, 4, 7]
    (folder_root / "classes.yaml").unlink()
    assert main(["verify", "--guess", str(folder_root)]) == 0
    recipe = EXPERIMENTS / "folder" / "hrnetv2_w18_small_v2_example.yaml"
    assert main(["verify", "--config", str(recipe), f"--data.root={folder_root}"]) == 0
    assert "mine: 5 train, 1 val, 1 test" in capsys.readouterr().out


def test_masks_in_the_folders_of_the_splits_are_guessed_from_and_snapped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--guess` used to search only ROOT/masks."""
    for number, part in enumerate(("train", "train", "val", "test")):
        rng = np.random.default_rng(number)
        write_image(tmp_path / part / "images" / f"{number}.png", rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        mask = np.zeros((40, 40), np.uint8)
        mask[:, 20:], mask[20:, :10] = 200, 100 if part == "val" else 0
        mask[range(40), range(40)] = range(1, 41)  # noise
        write_image(tmp_path / part / "masks" / f"{number}.png", mask)
    assert main(["verify", "--guess", str(tmp_path), "--snap", "clean"]) == 0
    assert "masks of 0, 100, 200 without noise" in capsys.readouterr().out
    data = ["--data=hrseg.FolderDataModule", f"--data.root={tmp_path}"]
    assert main(["verify", *data, "--data.masks=clean"]) == 0
    assert "2 train, 1 val, 1 test" in capsys.readouterr().out
    for part in ("train", "val", "test"):
        shutil.rmtree(tmp_path / part / "masks")
        shutil.move(tmp_path / "clean" / part, tmp_path / part / "masks")
    shutil.rmtree(tmp_path / "clean")
    assert main(["verify", "--guess", str(tmp_path), "--output", "new.yaml"]) == 0
    places = ", ".join(f"{tmp_path}/{part}/masks" for part in ("train", "val", "test"))
    assert f"# 4 masks of {places}; put" in capsys.readouterr().out
    write_image(tmp_path / "day" / "0_mask.png", mask // 200)
    write_image(tmp_path / "day" / "0.png", mask)
    named = ["--masks", "day", "--mask_suffix", "_mask", "--output", "day.yaml"]
    assert main(["verify", "--guess", str(tmp_path), *named]) == 0
    assert f"# 1 masks of {tmp_path}/day; put" in capsys.readouterr().out


def test_names_in_brackets_are_shown_as_they_are(folder_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = folder_root / "classes.yaml"
    text = classes.read_text().replace("ground", "'[/]'").replace("left arm", "':car:'")
    classes.write_text(text)
    data = ["--data=hrseg.FolderDataModule", f"--data.root={folder_root}", "--data.batch_size=1"]
    assert main(["verify", *data, "--data.crop_size=[32,32]"]) in (0, 1)
    out = capsys.readouterr().out
    assert "[/]" in out
    assert ":car:" in out
