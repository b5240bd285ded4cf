from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from hrseg.cli import main


def test_labels_and_lists_are_made_and_a_partial_copy_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, merged = tmp_path / "VOC2010", tmp_path / "trainval_merged.json"
    (root / "JPEGImages").mkdir(parents=True)
    images, annotations = [], []
    run_lengths = mask.encode(np.ones((32, 48), np.uint8, order="F"))
    run_lengths["counts"] = run_lengths["counts"].decode()
    for image_id, phase in enumerate(("train", "val", "val")):
        Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(root / "JPEGImages" / f"{image_id}.jpg")
        images.append({"image_id": image_id, "file_name": f"{image_id}.jpg", "phase": phase})
        annotations.append({"id": 7, "image_id": image_id, "category_id": 420, "segmentation": run_lengths})
    merged.write_text(json.dumps({"images": images, "annos_segmentation": annotations}))

    arguments = ["prepare", "pascal-context", "--root", str(root), "--json", str(merged)]
    assert main([*arguments, "--workers", "1"]) == 0
    captured = capsys.readouterr()
    assert "train: 1 images\nval: 2 images\n" in captured.out
    assert captured.err.splitlines() == [
        "warning: the complete train has 4998 or 4996 images",
        "warning: the complete val has 5105 or 5104 images",
    ]
    label = root / "SegmentationClassContext" / "2.png"
    assert np.unique(Image.open(label)) == [53]
    assert (root / "ImageSets" / "SegmentationContext" / "val.txt").read_text() == "1\n2\n"

    Image.fromarray(np.zeros((32, 48), np.uint8)).save(label)
    assert main(arguments) == 0
    assert np.unique(Image.open(label)) == [0]  # existing labels stay
    assert main([*arguments, "--overwrite"]) == 0
    assert np.unique(Image.open(label)) == [53]

    capsys.readouterr()
    merged.write_text(merged.read_text()[:-9])
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "trainval_merged.json is truncated or no JSON" in line


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "--help"])
    assert stop.value.code == 0
    assert "pascal-context" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pascal-contxt"], "unknown data set 'pascal-contxt'; did you mean pascal-context"),
        (["pascal-context"], "required: --root; see hrseg prepare --help"),
        (["pascal-context", "--root", "here"], "one of the arguments --json --mat --voc_first is required"),
        (
            ["pascal-context", "--root", "here", "--mat", "there", "--workers", "0"],
            "--workers is 0; expected 1 or more",
        ),
        (["pascal-context", "--root", "here", "--mat", "there"], "labels.txt cannot be read"),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("source", "packages", "missing"),
    [
        ("--json", ["ijson", "pycocotools"], "ijson and pycocotools"),
        ("--json", ["pycocotools"], "pycocotools"),
        ("--mat", ["scipy"], "scipy"),
    ],
)
def test_packages_that_are_missing_are_named_with_the_extra(
    source: str,
    packages: list[str],
    missing: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["prepare", "pascal-context", "--root", str(tmp_path), source, "there"]) == 2
    expected = f"hrseg: {missing} cannot be imported; install with pip install 'hrseg[prepare]'\n"
    assert capsys.readouterr().err == expected
