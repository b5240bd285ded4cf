"""Tables of the model zoo's page: families with their papers, and networks with published results."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hrseg.cli.models import few, sizes_of, weights_of
from hrseg.models.catalog import MODELS, list_families
from hrseg.models.weights.published import FURTHER_RESULTS, ZOO

Table = tuple[Sequence[str], list[Sequence[str]]]  # heading and rows

DATA_SETS = ("Cityscapes", "PASCAL-Context", "LIP", "COCO-Stuff", "ADE20K")
PUBLISHERS = {"mmseg": "mmsegmentation", "openseg": "openseg", "paddleseg": "PaddleSeg", "nvidia": "NVIDIA"}


def families() -> Table:
    """The families of networks."""
    rows = []
    for family, infos in list_families(MODELS.values()).items():
        paper = f"{infos[0].authors}, [arXiv {infos[0].arxiv}](https://arxiv.org/abs/{infos[0].arxiv})"
        rows.append((f"`{family}`", infos[0].title, paper, *sizes_of(infos)))
    return ("networks", "what they are", "paper", "parameters", "multiply-adds"), rows


def results() -> Table:
    """The networks with published results, and weights for each."""
    rows = []
    for name, info in MODELS.items():
        cells = [published(name, data_set) for data_set in DATA_SETS]
        if any(cells):
            rows.append((f"`{name}`", *sizes_of([info]), *cells, few(weights_of(name))))
    return ("network", "parameters", "multiply-adds", *DATA_SETS, "`weights=`"), rows


def published(model: str, data_set: str) -> str:
    """The first result of a network on a data set's val split, with what is unusual in its protocol."""
    for checkpoint in ZOO.values():
        if checkpoint.network == model and checkpoint.result and checkpoint.protocol.startswith(f"{data_set} val"):
            publisher = PUBLISHERS.get(checkpoint.tag.rpartition("_")[2], "")
            more = "trained on Mapillary Vistas too" if "Mapillary" in checkpoint.data else ""
            return cell(checkpoint.result, checkpoint.protocol, publisher, more)
    for network, protocol, result in FURTHER_RESULTS:
        if network == model and protocol.startswith(f"{data_set} val"):
            return cell(result, protocol)
    return ""


def cell(result: float, protocol: str, *more: str) -> str:
    """A result, with remarks in brackets."""
    views = re.sub(r"^.*? val(, )?|whole image, |sliding window, |473x473, |one scale", "", protocol)
    remarks = [remark for remark in (views, *more) if remark]
    return f"{result} ({'; '.join(remarks)})" if remarks else f"{result}"
