"""The catalog is up to date with its command."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from hrseg.models.catalog import MODELS
from hrseg.models.complexity import count_multiply_adds, count_parameters, model_info
from hrseg.models.registry import FAMILIES

# the smallest of each family: building and tracing all takes minutes
QUICK = [next(iter(family.networks)) for family in FAMILIES.values()]
REMEDY = "run `python -m hrseg.models.complexity`"


def test_the_catalog_lists_the_registered_networks() -> None:
    registered = {
        info.name: replace(
            info,
            title=family.title,
            authors=family.authors,
            arxiv=family.arxiv,
            pretrained_as=family.backbone.pretrained_as.replace("SIZE", info.size) if family.backbone else "",
        )
        for family in FAMILIES.values()
        for info in MODELS.values()
        if info.family == family.name
    }
    assert registered == MODELS, REMEDY
    assert list(MODELS) == [name for family in FAMILIES.values() for name in family.networks], REMEDY


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_figures(name: str) -> None:
    assert model_info(MODELS[name].family, MODELS[name].size) == MODELS[name], REMEDY


def test_counts_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 4 * 5, 7, bias=False)).eval()
    images = torch.zeros(1, 3, 4, 5)
    assert count_parameters(network) == 3 * 8 * 9 + 8 + 8 * 20 * 7
    assert count_multiply_adds(network, images, attention=False) == 3 * 8 * 9 * 20
    assert count_multiply_adds(network, images) == 3 * 8 * 9 * 20 + 8 * 20 * 7
