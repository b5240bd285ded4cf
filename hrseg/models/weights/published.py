"""The published weights as data: where to download each, what it was trained on, and the published results.

published.csv has a row for each name, with the fields of `PublishedWeights` as columns. Lists are separated by spaces;
an empty mean or std is ImageNet's, an empty result was not published, an empty licence not stated. The hash of a mirror
follows its link, as in pip: `LINK#sha256=DIGITS`.

Links, hashes and figures are copied from the projects' own pages and configurations. None of the links could be tried
where hrseg is developed, and no figure was measured again. The mirrors of a name hold the same published weights in
different files; that they are equal to the last bit was not verified. A licence is that of the project that published
the weights; the images they were trained on may be under another. Two names are copied as they are: OpenMMLab's
hrnetv2_w18_small, which is w18_small_v2, and openseg's folder opeseg.pytorch.lip.

Needs no torch, so listing is quick.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrseg.models.weights.mirrors import Mirror

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# mean IoU in per cent that the authors published of networks whose weights are not available: network, protocol, result
FURTHER_RESULTS = (
    ("hrnetv2_w18_small_v2", "Cityscapes val, whole image, one scale", 76.2),
    ("hrnetv2_w40", "Cityscapes val, whole image, one scale", 80.2),
)


@dataclass(frozen=True)
class PublishedWeights:
    """Published weights.

    Args:
        network: Name of the network; not all of them are networks of hrseg.
        alternative: Another network that the file may hold, if its publisher does not say which; else empty.
        tag: The rest of the name: what the weights were trained for, and by whom if not by the network's authors.
        data: Training data.
        protocol: How the published result was obtained; empty if nothing was published.
        result: The published result in per cent; None if there is none.
        result_ms: The same with multi-scale testing, and flip where the publisher flips; None if there is none.
        metric: Of the results.
        mirrors: Downloads that need no browser, in the order to be tried.
        page: Download that needs a browser; empty if none is known.
        page_file: Name of the file there, or the name to give it where that is not known.
        licence: Of the project that published them; empty if it states none.
        parameters: Constructor arguments of the training that differ from the defaults or are easily mistaken.
        channels: Order of the colour channels.
        mean: Of the channels of images in 0..1, in that order; subtracted.
        std: Standard deviation of the channels; divided by.
        note: What a user has to know.
    """

    network: str
    tag: str
    data: str
    alternative: str = ""
    protocol: str = ""
    result: float | None = None
    result_ms: float | None = None
    metric: str = "mIoU"
    mirrors: tuple[Mirror, ...] = ()
    page: str = ""
    page_file: str = ""
    licence: str = "MIT"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    channels: str = "RGB"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    note: str = ""

    @property
    def name(self) -> str:
        """`NETWORK.TAG`, such as `hrnetv2_w48.cityscapes`."""
        return f"{self.network}.{self.tag}"

    @property
    def files(self) -> tuple[str, ...]:
        """Names that the file may have, the most likely first."""
        by_hand = (self.page_file,) if self.page else ()
        return tuple(dict.fromkeys((*by_hand, *(mirror.file for mirror in self.mirrors))))

    @property
    def readable(self) -> bool:
        """Whether hrseg reads the format of the files."""
        return not all(file.endswith(".pdparams") for file in self.files)


def _read() -> dict[str, PublishedWeights]:
    with Path(__file__).with_name("published.csv").open(newline="", encoding="utf-8") as file:
        rows = [_parse(row) for row in csv.DictReader(file)]
    return {row.name: row for row in rows}


def _parse(cells: dict[str, str]) -> PublishedWeights:
    row: dict[str, Any] = dict(cells)
    for name in ("result", "result_ms"):
        row[name] = float(cells[name]) if cells[name] else None
    for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        row[name] = tuple(map(float, cells[name].split())) or default
    arguments = (argument.partition("=") for argument in cells["parameters"].split())
    row["parameters"] = {name: json.loads(value) for name, _, value in arguments}
    links = (link.partition("#sha256=") for link in cells["mirrors"].split())
    row["mirrors"] = tuple(Mirror(url, digits) for url, _, digits in links)
    return PublishedWeights(**row)


ZOO = _read()  # by name
