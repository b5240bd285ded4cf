"""The images found by `hrseg predict --images`, and the names of the outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hrseg.cli.image_search import find_images
from hrseg.errors import DataNotFoundError


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*places: str, output: str = "predictions") -> dict[str, str]:
    images, _ = find_images(places, Path(output))
    return {name: path.as_posix() for name, path in images.items()}


def told(*places: str) -> str:
    return "\n".join(find_images(places, Path("predictions"))[1])


def test_a_file_with_brackets_in_its_name_is_found() -> None:
    make("photo [1].jpg", "photo 1.jpg", "day[2]/a.jpg")
    assert found("photo [1].jpg") == {"photo [1]": "photo [1].jpg"}
    assert found("day[2]") == {"a": "day[2]/a.jpg"}
    Path("photo [1].jpg").unlink()
    assert found("photo [1].jpg") == {"photo 1": "photo 1.jpg"}  # a glob where there is no such file


def test_predicting_a_folder_twice_does_not_predict_the_predictions() -> None:
    make("a.jpg", "predictions/labels/a.png", "predictions/overlays/a.png", "old/labels/a.png", "old/overlays/a.png")
    make("runs/toy/0/config.yaml", "runs/toy/0/checkpoints/best.ckpt", "runs/toy/0/test/contact_sheet.png")
    make("predictions/confidence/a.png", "old/confidence/a.png", "old/probabilities/a.npz")
    make("scenes/labels/b.jpg", "c/confidence/d.jpg")  # a user's folders of these names
    users = {"b": "scenes/labels/b.jpg", "d": "c/confidence/d.jpg"}
    assert found(".") == {"a": "a.jpg", "scenes/labels/b": users["b"], "c/confidence/d": users["d"]}
    assert "skipped files written by hrseg: old/confidence, old/labels, old/overlays" in told(".")
    assert found("predictions/overlays") == {"a": "predictions/overlays/a.png"}  # unless given explicitly


def test_images_of_one_stem_get_different_names() -> None:
    make("a.jpg", "a.png", "b.jpg", "deep/a.jpg")
    assert found(".") == {"a.jpg": "a.jpg", "a.png": "a.png", "b": "b.jpg", "deep/a": "deep/a.jpg"}
    assert "2 images share their name with another" in told(".")


def test_images_of_several_folders_get_different_names() -> None:
    make("one/a.jpg", "two/a.jpg", "three/x/a.jpg", "four/x/a.jpg")
    assert found("one", "two") == {"one/a.jpg": "one/a.jpg", "two/a.jpg": "two/a.jpg"}
    names = found("three/x", "four/x")
    assert sorted(names.values()) == ["four/x/a.jpg", "three/x/a.jpg"]
    assert found("one/a.jpg", "two/a.jpg") == {"one/a.jpg": "one/a.jpg", "two/a.jpg": "two/a.jpg"}
    make("c.jpg", "c.png", "c.jpg.png")  # the longer name of one is the shorter name of another
    assert sorted(found(".", "c.jpg").values()) == sorted(map(str, Path().rglob("*.*g")))


def test_a_file_given_twice_is_predicted_once() -> None:
    make("a.jpg")
    assert found("a.jpg", "./a.jpg", "*.jpg", ".") == {"a": "a.jpg"}


def test_hidden_files_are_skipped() -> None:
    make("a.jpg", "._a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg")
    assert found(".") == {"a": "a.jpg"}
    assert found("._a.jpg") == {"._a": "._a.jpg"}  # unless they are given


def test_other_files_are_counted() -> None:
    make("a.jpg", "b.gif", "c.avif", "d.jp2", "notes.txt", "more.txt", "Makefile")
    assert found(".") == {"a": "a.jpg", "b": "b.gif", "c": "c.avif", "d": "d.jp2"}
    assert find_images(["../" + Path.cwd().name], Path("out"))[0]["a"] == Path(
        f"../{Path.cwd().name}/a.jpg"
    )  # as given
    assert told(".") == "skipped 3 other files (2 .txt, 1 without suffix)"
    assert found("*") == found(".")
    assert found("a.jpg", "notes.txt") == {"a": "a.jpg"}  # as a shell's * gives them


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["gone.jpg"], r"no file or folder gone\.jpg, nor any that matches it as a glob"),
        (["empty"], r"no image at empty; expected \.png"),
        (["texts"], r"no image at texts, but 1 other files \(1 \.txt\); expected \.png"),
        ([""], "no file or folder"),
    ],
)
def test_places_without_an_image_are_reported(places: list[str], message: str) -> None:
    make("texts/notes.txt")
    Path("empty").mkdir()
    with pytest.raises(DataNotFoundError, match=message):
        find_images(places, Path("predictions"))


def test_loops_of_links_and_strange_names_are_gone_through_once() -> None:
    make("a.jpg", "deep/b.jpg", "deep/" + "x" * 240 + ".jpg")
    Path("deep/loop").symlink_to("..")
    Path("other").mkdir()
    Path("other/there").symlink_to("../deep")
    Path("deep/here").symlink_to("../other")
    os.close(os.open(b"caf\xe9.jpg", os.O_CREAT))
    names = list(found("."))
    assert os.fsdecode(b"caf\xe9") in names
    assert {"a", "deep/b", "deep/here/there/b", "other/there/b"} >= {name for name in names if name[-2:] in ("a", "/b")}
    assert len(names) < 12
