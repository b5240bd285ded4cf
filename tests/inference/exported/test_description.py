from __future__ import annotations

import json
import math

import pytest

from hrseg.errors import ConfigError, WeightsError
from hrseg.inference import Protocol
from hrseg.inference.exported.description import OUTPUTS, description_from_json
from tests.exports import RUNTIMES, describe


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_json_gives_an_equal_description(runtime: str) -> None:
    full = describe(
        runtime,
        protocol=Protocol(scales=(0.5, 1.25), flip=True, window=(64, 96), stride=(32, 32)),
        input_size=(40, 56),
        size=(33, 35),
        outputs=OUTPUTS,
        temperature=1.25,
        weights="ab",
        config="cd",
        licence="MIT",
        versions={"torch": "2.14.1"},
        multiple=32,
        smallest=33,
    )
    for description in (full, describe(runtime)):
        assert description_from_json(description.to_json(), "file") == description


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature is 0: input should be greater than 0"),
        ({"mean": [0.1, 0.2]}, r"mean.2 is .*: field required"),
        ({"std": [0.1, 0.2, 0]}, "std"),
        ({"outputs": ["labels", "other"]}, "outputs.1 is 'other'"),
        ({"size": [0, 3]}, "size.0 is 0"),
        ({"protocol": {"scales": [-1]}}, "scales"),
        ({"labels": {"name": "toy"}}, "labels"),
        ({"of_the_future": 1}, "of_the_future is 1: unexpected keyword argument"),
        ({"runtime": "core_ml"}, "runtime is 'core_ml'"),
        ({"precision": None}, "precision is None"),
    ],
)
def test_a_damaged_description_is_reported_in_one_line(changes: dict[str, object], message: str) -> None:
    values = json.loads(describe("onnx").to_json()) | changes
    with pytest.raises(WeightsError, match=rf"model.onnx: its description .*{message}.*; export it again") as caught:
        description_from_json(json.dumps(values), "model.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00"])
def test_what_is_no_json_object_is_reported(text: str) -> None:
    with pytest.raises(WeightsError, match="its description is damaged"):
        description_from_json(text, "model.onnx")


def test_numbers_are_checked() -> None:
    for changes in ({"mean": (0.1, math.nan, 0.3)}, {"std": (0.1, 0.0, 0.3)}):
        with pytest.raises(ConfigError):
            describe("onnx", **changes)
