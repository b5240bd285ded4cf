from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, LabelRangeError

TOY = LabelTable(
    name="Toy",
    class_names=("body", "left", "right"),
    colors=((10, 20, 30), (40, 50, 60), (70, 80, 90)),
    label_ids=(4, 7, 9),
    void_ids=(0, 5),
    flip_pairs=((1, 2),),
    categories={"sides": (1, 2)},
    counts={"train": 12},
)


def test_encode_equals_a_loop_over_the_ids() -> None:
    label = np.random.default_rng(0).choice(np.array([0, 4, 5, 7, 9, 255], np.uint8), (30, 40))
    expected = np.full_like(label, 255)
    for train_id, label_id in enumerate((4, 7, 9)):
        expected[label == label_id] = train_id
    np.testing.assert_array_equal(TOY.encode(label, "a.png"), expected)


def test_decode_is_the_inverse_and_gives_void_for_ignored_pixels() -> None:
    target = np.array([[0, 1, 2, 255]], np.uint8)
    np.testing.assert_array_equal(TOY.decode(target), [[4, 7, 9, 0]])
    np.testing.assert_array_equal(TOY.encode(TOY.decode(target), "a.png"), target)
    np.testing.assert_array_equal(TOY.for_train_ids().decode(target), target)


def test_a_value_outside_the_table_is_named_with_file_count_and_remedy() -> None:
    label = np.full((4, 4), 4, np.uint8)
    label[0, :3] = 34
    with pytest.raises(LabelRangeError) as caught:
        TOY.encode(label, "city/a_labelIds.png")
    message = str(caught.value)
    assert message.startswith("value 34 (3 pixels) in city/a_labelIds.png; Toy has label ids 0, 4-5, 7, 9, 255.")
    assert "\n" not in message


def test_pictures_of_labels_equal_a_loop_over_the_colors() -> None:
    table = replace(TOY, void_colors=((0, 0, 0), (255, 255, 255)))
    colors = [*table.colors, (0, 0, 0), (255, 255, 255)]
    drawn = np.random.default_rng(0).integers(0, 5, (30, 40))
    expected = np.array([[index if index < 3 else 255 for index in row] for row in drawn.tolist()])
    np.testing.assert_array_equal(table.encode(np.array(colors, np.uint8)[drawn], "a.png"), expected)
    assert len(pickle.dumps(table)) < 10_000  # it travels to every worker


def test_colors_outside_the_table_are_named_with_file_count_and_remedy() -> None:
    picture = np.full((4, 4, 3), (10, 20, 30), np.uint8)
    picture[0, :3] = (30, 20, 10)
    picture[1, 0] = (10, 20, 31)
    with pytest.raises(LabelRangeError) as caught:
        replace(TOY, void_colors=((0, 0, 0),)).encode(picture, "a.png")
    assert str(caught.value) == (
        "colour (30, 20, 10) (3 pixels), (10, 20, 31) (1 pixels) in a.png; Toy has the colours (10, 20, 30), "
        "(40, 50, 60), (70, 80, 90), (0, 0, 0). "
        "Is one missing in the list, or were the labels saved with smoothed edges?"
    )


def test_tables_of_train_ids_accept_train_ids_and_the_ignore_index_only() -> None:
    table = TOY.for_train_ids()
    target = np.array([[0, 1, 2, 255]], np.uint8)
    np.testing.assert_array_equal(table.encode(target, "a.png"), target)
    with pytest.raises(LabelRangeError, match=r"value 7 \(1 pixels\) in a.png; Toy has train ids 0-2, 255"):
        table.encode(np.array([[7]], np.uint8), "a.png")


def test_colorize_paints_classes_and_leaves_ignored_pixels_black() -> None:
    painted = TOY.colorize(np.array([[0, 2], [255, 1]], np.uint8))
    np.testing.assert_array_equal(painted, [[[10, 20, 30], [70, 80, 90]], [[0, 0, 0], [40, 50, 60]]])


def test_flip_permutation_swaps_pairs_and_is_its_own_inverse() -> None:
    permutation = TOY.flip_permutation()
    assert permutation == [0, 2, 1]
    assert [permutation[k] for k in permutation] == [0, 1, 2]


def test_a_table_survives_json_and_pickle() -> None:
    assert LabelTable.from_dict(json.loads(json.dumps(TOY.to_dict()))) == TOY
    assert pickle.loads(pickle.dumps(TOY)) == TOY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("body", "left")}, "2 names, 3 colours, 3 label ids"),
        ({"label_ids": (4, 7)}, "3 names, 3 colours, 2 label ids"),
        ({"label_ids": (4, 7, 7)}, "stands for two classes"),
        ({"void_ids": (7,)}, "for a class and void"),
        ({"label_ids": (4, 7, 256)}, "label id with 256; expected 0 to 255"),
        ({"void_ids": (-1,)}, "label id with -1"),
        ({"colors": ((0, 0, 0), (0, 0, 0), (0, 0, 300))}, "colour with 300"),
        ({"void_colors": ((0, 0, 300),)}, "colour with 300"),
        ({"void_colors": ((10, 20, 30),)}, "a colour stands for two classes, or for a class and void"),
        ({"flip_pairs": ((1, 3),)}, "flip pair with 3; expected 0 to 2"),
        ({"categories": {"sides": (1, 3)}}, "category with 3"),
        ({"ignore_index": 2}, "ignore index 2"),
        ({"class_names": (), "colors": (), "label_ids": None}, "0 classes"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TOY, **change)


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "nul\0", "x" * 201])
def test_names_with_terminal_control_sequences_are_refused(name: str) -> None:
    for change in ({"name": name}, {"class_names": (name, "left", "right")}, {"categories": {name: (1,)}}):
        with pytest.raises(ConfigError, match="expected up to 200 characters that can be printed"):
            replace(TOY, **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected up to 200"):
        LabelTable.from_dict({**TOY.to_dict(), "name": name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": [1, 2, 3]}, "class_names.0 is 1: input should be a valid string"),
        ({"flip_pairs": [[0, 1, 2]]}, r"flip_pairs.0 is \[0, 1, 2\]"),
        ({"categories": [1]}, r"categories is \[1\]"),
        ({"ignore_index": "x"}, "ignore_index is 'x'"),
        ({"speed": 3}, "speed is 3: unexpected"),
    ],
)
def test_entries_of_other_types_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"label table: {message}"):
        LabelTable.from_dict({**TOY.to_dict(), **change})
