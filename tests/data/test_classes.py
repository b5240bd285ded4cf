from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrseg.data.classes import default_colors, read_classes
from hrseg.errors import ConfigError, UnknownNameError


def test_names_alone_suffice() -> None:
    table = read_classes({"names": ["road", "sky"]}, "mine")
    assert (table.name, table.class_names, table.label_ids, table.void_ids) == ("mine", ("road", "sky"), None, ())
    np.testing.assert_array_equal(table.encode(np.array([[0, 1, 255]], np.uint8), "a.png"), [[0, 1, 255]])


def test_every_key_reaches_the_table(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(
        """
        names: [body, left, right]
        colors: [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
        ids: [4, 7, 9]
        ignore: [0, [0, 0, 0], 5]
        flip_pairs: [[left, 2]]
        categories: {sides: [left, right]}
        """
    )
    table = read_classes(path, "mine")
    assert table.colors == ((1, 1, 1), (2, 2, 2), (3, 3, 3))
    assert (table.label_ids, table.void_ids, table.void_colors) == ((4, 7, 9), (0, 5), ((0, 0, 0),))
    assert (table.flip_pairs, table.categories) == (((1, 2),), {"sides": (1, 2)})


def test_255_can_be_the_foreground() -> None:
    table = read_classes({"names": ["background", "foreground"], "ids": [0, 255]}, "mine")
    np.testing.assert_array_equal(table.encode(np.array([[0, 255]], np.uint8), "a.png"), [[0, 1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": None}, "0 classes"),
        ({"names": ["road", False]}, r"names is \['road', False\]; expected a list of names, each once, in quotes"),
        ({"names": ["road", "road"]}, "names is .*each once"),
        ({"names": "road"}, "names is 'road'"),
        ({"names": ["road", " "]}, r"names is \['road', ' '\]; .* none empty or with control characters"),
        ({"names": ["road", "a\x1b[2J"]}, "names is .* none empty or with control characters"),
        ({"names": [1, 2.5]}, r"names is \[1, 2\.5\]"),
        ({"names": [[["road"]]]}, "names is"),
        ({"names": {"road": 0}}, "names is"),
        ({"names": [str(i) for i in range(254)]}, "254 classes; expected 1 to 253"),
        ({"ids": [0, 10**30]}, "label id with 10"),
        ({"ids": [0, -1]}, "label id with -1"),
        ({"ids": [0, float("nan")]}, "ids is"),
        ({"ids": ["0"] * 9999}, r"ids is .{200} \.\.\.; expected"),
        ({"categories": {3: ["road"]}}, "categories is"),
        ({"colors": [[1, 2]]}, r"colors is \[\[1, 2\]\]; expected a list of colours"),
        ({"colors": [[1, 2, 3]]}, "2 names, 1 colours"),
        ({"colors": [[1, 2, 3], [1, 2, 300]]}, "colour with 300; expected 0 to 255"),
        ({"colors": [[1, 2, 3], [1, 2, 3]]}, "a colour stands for two classes"),
        ({"colors": [[1, 2, 3], [0, 0, 0]], "ignore": [[0, 0, 0]]}, "a colour stands for .* a class and void"),
        ({"ids": ["road"]}, "ids is .*expected a list of label ids"),
        ({"ids": [1, 256]}, "label id with 256"),
        ({"ids": [1, True]}, "ids is"),
        ({"ids": 7}, "ids is 7"),
        ({"ignore": 0}, "ignore is 0; expected a list of label ids, or of colours"),
        ({"ignore": [[0, 0]]}, "ignore is"),
        ({"flip_pairs": [["road", "ski"]]}, "flip_pairs is .*expected a list of pairs"),
        ({"flip_pairs": [["road"]]}, "flip_pairs is"),
        ({"categories": ["road"]}, "categories is"),
        ({"categories": {"all": ["raod"]}}, "categories is"),
    ],
)
def test_an_invalid_value_is_reported_with_file_and_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^data.classes: (label table mine: )?{message}") as caught:
        read_classes({"names": ["road", "sky"], **change}, "mine")
    assert "\n" not in str(caught.value)


def test_an_unknown_key_is_reported_with_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text("names: [road]\ncolor: []\n")
    with pytest.raises(UnknownNameError, match=r"key of .*classes.yaml 'color'; did you mean colors"):
        read_classes(tmp_path / "classes.yaml", "mine")


# each line repeats the previous one nine times
BOMB = "".join(f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("names: [road", "is no YAML: while parsing"),
        ("- road\n- sky\n", r"holds \['road', 'sky'\]; expected the keys names"),
        ("", "holds None"),
        ("names: &a [*a]", "has an anchor that contains itself"),
        ("a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + BOMB, "has more than 100000 values"),
        ("[" * 5000, "is nested too deeply"),
        ("names: [2020-99-99]", "is no YAML"),
        ("ids: [" + "9" * 5000 + "]", "is no YAML"),
        ("names: !!python/object/apply:os.system [true]", "is no YAML"),
        ("? [a]\n: b", "is no YAML"),
        ("names: [a]\n---\nnames: [b]", "is no YAML"),
        ("names: [\x07]", "is no YAML"),
    ],
)
def test_a_file_that_is_no_classes_file_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "classes.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=rf"classes\.yaml {message}.*hrseg verify --guess") as caught:
        read_classes(path, "mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["names: [a]".encode("utf-16"), bytes(range(256)), b"\0" * 99, b" " * 2**19])
def test_a_binary_or_huge_file_is_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "classes.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^[^\n]*classes\.yaml (cannot be read|holds NUL|has 524288 bytes)[^\n]*$"):
        read_classes(tmp_path / "classes.yaml", "mine")


def test_default_colors_are_distinct_and_equal_pascal_voc_s() -> None:
    assert len({*default_colors(253), (0, 0, 0)}) == 254
    voc = {1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}  # aeroplane, cat, person, tvmonitor
    assert {index: default_colors(20)[index - 1] for index in voc} == voc
