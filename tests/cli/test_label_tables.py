"""Values of `hrseg predict --labels`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hrseg.cli.label_tables import TABLES, read_labels
from hrseg.data.datasets.camvid import CAMVID
from hrseg.errors import ConfigError

NUM_CLASSES = {"cityscapes": 19, "pascal_context_59": 59, "pascal_context_60": 60, "lip": 20, "camvid": 11}
NUM_CLASSES |= {"ade20k": 150, "coco_stuff": 171}


@pytest.mark.parametrize("name", sorted({*TABLES, *NUM_CLASSES}))
def test_every_table_goes_by_its_name(name: str) -> None:
    labels, input_size = read_labels(name)
    assert len({*labels.class_names}) == labels.num_classes == NUM_CLASSES.get(name, labels.num_classes)
    if name in NUM_CLASSES:
        assert input_size == ((473, 473) if name == "lip" else None)


def test_the_ids_of_coco_stuff_and_ade20k_are_the_official_ones() -> None:
    coco = dict(
        zip(read_labels("coco_stuff")[0].class_names, read_labels("coco_stuff")[0].label_ids or (), strict=True)
    )
    expected = {"person": 1, "stop sign": 13, "toothbrush": 90, "banner": 92, "wood": 182, "umbrella": 28}
    assert {name: coco[name] for name in expected} == expected
    ade = read_labels("ade20k")[0]
    assert (ade.label_ids or ())[0] == 1
    assert ade.class_names[149] == "flag"


def test_a_run_and_a_classes_file_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"hrseg": {"labels": CAMVID.to_dict(), "input_size": (64, 80)}, "state_dict": {}}, checkpoint)
    for source in ("run", str(checkpoint)):
        assert read_labels(source) == (CAMVID, (64, 80))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "classes.yaml").write_text("names: [cat, dog]")
    for source in ("mine", "mine/classes.yaml"):
        labels, input_size = read_labels(source)
        assert (labels.class_names, labels.name, input_size) == (("cat", "dog"), "mine", None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("camvit", r"unknown labels 'camvit'; did you mean camvid\? Expected one of ade20k, camvid, cityscapes"),
        (
            "gone.yaml",
            r"unknown labels 'gone.yaml'; expected one of .*ade20k.*; the folder of a run; or a classes.yaml",
        ),
        ("empty", "unknown labels 'empty'; expected one of"),
        ("other.ckpt", "other.ckpt does not describe its classes; expected one of"),
        ("bad.yaml", r"bad\.yaml: names is 3; expected a list of names"),
    ],
)
def test_other_labels_are_refused_with_the_accepted_ones(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text("names: 3")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match=message):
        read_labels(source)
