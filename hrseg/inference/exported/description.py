"""What a file of `hrseg export` states about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, WeightsError
from hrseg.inference.preprocess import check_normalization
from hrseg.inference.protocol import Protocol

KEY = "hrseg"  # of the description in a file's metadata
IMAGES, NORMALIZED, LOGITS = "images", "normalized", "logits"  # names of values in the graph

Output = Literal["labels", "confidence", "probabilities"]
OUTPUTS: tuple[Output, ...] = ("labels", "confidence", "probabilities")
LABELS, CONFIDENCE, PROBABILITIES = OUTPUTS
Runtime = Literal["onnx", "openvino", "torch", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class ExportDescription:
    """All that a program needs to run an exported file, and to score it with hrseg.

    Args:
        runtime: What the file is for.
        precision: Of the network's layers; images, logits and probabilities are float32 in any case.
        network: The network's name, or its class.
        labels: The classes, with colours, ignore index and flip pairs.
        mean: Mean of the channels, for values from 0 to 1, in `channel_order`.
        std: Standard deviation of the channels, in the range and order of `mean`.
        channel_order: The order that the network itself expects; images are always RGB.
        align_corners: How logits are upsampled.
        protocol: The protocol of `test`, which hrseg runs; the file's own labels are those of the protocol "whole".
        crop_size: (height, width) of the training crops in pixels.
        input_size: (height, width) that the graph resizes every image to; None for its own size.
        size: (height, width) of the only images that the graph takes; None for any.
        multiple: What height and width are multiples of.
        smallest: Least height and width.
        outputs: Names of the outputs: "labels" (N, H, W) uint8 train ids; "confidence" (N, H, W) float32, the
            probability of the label; "probabilities" (N, K, H, W) float32.
        temperature: What logits are divided by before the softmax.
        weights: SHA-256 of the weights, see `hash_of_weights`.
        config: SHA-256 of the run's config.yaml; empty without one.
        licence: Licence of the weights; empty where it is not known.
        versions: Versions of the packages that wrote the file.

    Raises:
        ConfigError: A number is outside its range.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    runtime: Runtime
    precision: Precision
    network: str
    labels: LabelTable
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: Literal["rgb", "bgr"]
    align_corners: bool
    protocol: Protocol
    crop_size: tuple[PositiveInt, PositiveInt] | None
    input_size: tuple[PositiveInt, PositiveInt] | None
    size: tuple[PositiveInt, PositiveInt] | None = None
    multiple: PositiveInt = 1
    smallest: PositiveInt = 1
    outputs: tuple[Output, ...] = OUTPUTS[:1]
    temperature: _Positive = 1.0
    weights: str = ""
    config: str = ""
    licence: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    input: Literal["uint8 RGB (N, H, W, 3)"] = "uint8 RGB (N, H, W, 3)"

    def __post_init__(self) -> None:
        check_normalization(self.mean, self.std)

    def to_json(self) -> str:
        """The description as JSON, which `description_from_json` reads."""
        return _ADAPTER.dump_json(self).decode()

    def replaced(self, **changes: Any) -> ExportDescription:
        """A copy with other values."""
        return replace(self, **changes)


_ADAPTER = TypeAdapter(ExportDescription)


def description_from_json(text: str | None, path: object) -> ExportDescription:
    """Reads the description that a file holds.

    Args:
        text: The JSON under `KEY`; None where there is no such key.
        path: The file, for messages.

    Raises:
        WeightsError: It is no description, such as in a file of another program.
    """
    if text is None:
        raise WeightsError(f"{path} was not written by `hrseg export`; expected a file of it, or a checkpoint of a run")
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        reason = f"{place} is {first['input']!r:.60}: {first['msg'].lower()}"
    except ConfigError as error:
        reason = str(error)
    raise WeightsError(
        f"{path}: its description is damaged, or of another version of hrseg ({reason}); export it again"
    )
