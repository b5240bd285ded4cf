"""Counts of parameters and multiply-adds, and the catalog of the registered networks.

`python -m hrseg.models.complexity` writes catalog.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, fields

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hrseg.models.catalog import CATALOG, IMAGE_SIZE, ModelInfo
from hrseg.models.factory import create_model
from hrseg.models.registry import FAMILIES
from hrseg.utils.files import replacing
from hrseg.utils.progress import track_progress


def count_parameters(network: nn.Module) -> int:
    """Counts the parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_multiply_adds(network: nn.Module, images: torch.Tensor, attention: bool = True) -> int:
    """Counts the multiply-adds of one forward pass.

    Args:
        network: In evaluation mode; on the device "meta", nothing is computed.
        images: Its input.
        attention: Count linear layers, matrix products and attention too, not only convolutions.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    counts = counter.get_flop_counts()["Global"]
    operations = counts if attention else [torch.ops.aten.convolution]
    return int(sum(counts[operation] for operation in operations)) // 2


def model_info(family_name: str, size: str) -> ModelInfo:
    """Computes the catalog's row of a registered network."""
    family = FAMILIES[family_name]
    with torch.device("meta"):
        network = create_model(family_name.replace("SIZE", size)).eval()
        images = torch.empty(1, 3, *IMAGE_SIZE)
    return ModelInfo(
        family=family_name,
        size=size,
        title=family.title,
        authors=family.authors,
        arxiv=family.arxiv,
        pretrained_as=family.backbone.pretrained_as.replace("SIZE", size) if family.backbone else "",
        parameters=count_parameters(network),
        multiply_adds=count_multiply_adds(network, images, family.counts_attention),
    )


def write_catalog() -> None:
    """Writes catalog.csv: all networks of hrseg, in the order of registration."""
    names = [(family.name, size) for family in FAMILIES.values() for size in family.builders]
    rows: Iterator[ModelInfo] = (model_info(*name) for name in track_progress(names, "networks", len(names)))
    with replacing(CATALOG) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(ModelInfo)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows))


if __name__ == "__main__":
    write_catalog()
