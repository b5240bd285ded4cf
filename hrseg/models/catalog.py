"""The networks by name, with their families and sizes, as catalog.csv lists them. Needs no torch, so listing is quick.

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
IMAGE_SIZE = (1024, 2048)  # that multiply-adds are counted for


@dataclass(frozen=True)
class ModelInfo:
    """Family and size of a network.

    Args:
        family: Networks that differ only in size, such as "hrnetv2_SIZE_ocr".
        size: What stands for SIZE in the network's name.
        title: What the networks of the family are, in a few words.
        authors: Of the paper.
        arxiv: Number of the paper there.
        pretrained_as: Name of the network under which ImageNet weights of the same backbone are published.
        parameters: Learnt numbers, with 19 classes; of classifiers, with 1000.
        multiply_adds: Of the convolutions for one image of 1024x2048, with as many classes; of HRFormer, also of the
            linear layers and the attention. The papers print this number divided by 2**30 and call it GFLOPs; of PSA
            and HRFormer at this size they print none, these are measured.
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
        """What `create_model` takes.

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


MODELS = _read()  # the networks of hrseg by name


def list_families(networks: Iterable[ModelInfo]) -> dict[str, list[ModelInfo]]:
    """Groups networks by family, in their order."""
    found: dict[str, list[ModelInfo]] = {}
    for network in networks:
        found.setdefault(network.family, []).append(network)
    return found


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell pattern, those that a user registered behind those of hrseg.

    >>> list_models("hrnetv2_*small_v?")
    ['hrnetv2_w18_small_v1', 'hrnetv2_w18_small_v2']
    """
    return [name for name in dict.fromkeys((*MODELS, *BUILDERS)) if fnmatchcase(name, pattern)]
