"""The networks in catalog.csv by name, with families and sizes. Needs no torch, so listing is quick.

`python -m hrseg.models.complexity` writes the file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from hrseg.models.registry import BUILDERS

CATALOG = Path(__file__).with_name("catalog.csv")
IMAGE_SIZE = (1024, 2048)  # for multiply-adds


@dataclass(frozen=True)
class ModelInfo:
    """A network: its family, size and complexity.

    Args:
        family: Networks that differ only in size, such as "hrnetv2_SIZE_ocr".
        size: What stands for SIZE in the network's name.
        title: Short description of the family.
        authors: Authors of the paper.
        arxiv: Its arXiv number.
        pretrained_as: Name of the network under which ImageNet weights of the same backbone are published.
        parameters: Number of parameters, with 19 classes; for classifiers, with 1000.
        multiply_adds: Multiply-adds of the convolutions, and for HRFormer also of linear layers and attention, for one
            image of 1024x2048 and as many classes. The papers print this number divided by 2**30 as GFLOPs, but not for
            PSA and HRFormer at this size.
    """

    family: str
    size: str
    title: str
    authors: str
    arxiv: str
    pretrained_as: str
    parameters: int
    multiply_adds: int

    @property
    def name(self) -> str:
        """Name for `create_model`.

        >>> MODELS["hrnetv2_w18_small_v1_psa_s"].family
        'hrnetv2_SIZE_psa_s'
        """
        return self.family.replace("SIZE", self.size)


def _read() -> dict[str, ModelInfo]:
    with CATALOG.open(newline="", encoding="utf-8") as file:
        rows = [
            ModelInfo(parameters=int(row.pop("parameters")), multiply_adds=int(row.pop("multiply_adds")), **row)
            for row in csv.DictReader(file)
        ]
    return {row.name: row for row in rows}


MODELS = _read()  # by name


def list_families(networks: Iterable[ModelInfo]) -> dict[str, list[ModelInfo]]:
    """Groups networks by family, in their order."""
    found: dict[str, list[ModelInfo]] = {}
    for network in networks:
        found.setdefault(network.family, []).append(network)
    return found


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell pattern, those of hrseg first, then the user's own.

    >>> list_models("hrnetv2_*small_v?")
    ['hrnetv2_w18_small_v1', 'hrnetv2_w18_small_v2']
    """
    return [name for name in dict.fromkeys((*MODELS, *BUILDERS)) if fnmatchcase(name, pattern)]
