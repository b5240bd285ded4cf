"""`convert_weights`: the way back, from our networks to files that other code bases read.

What another code base cannot compute is refused; what it has to be told, because its files do not hold it, is said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrseg.errors import ConfigError, UnknownNameError, WeightsError
from hrseg.models.factory import create_model
from hrseg.models.networks.base import Network, Segmenter
from hrseg.models.networks.classifier import HRNetClassifier
from hrseg.models.networks.hmsa import TRAINING_SCALES, HRNetV2OCRMultiScale
from hrseg.models.networks.hrformer import HRFormer, HRFormerClassifier, HRFormerOCR
from hrseg.models.networks.hrnet import HRNet
from hrseg.models.networks.hrnetv1 import HRNetV1
from hrseg.models.networks.hrnetv2 import HRNetV2
from hrseg.models.networks.hrnetv2p import HRNetV2p
from hrseg.models.networks.ocr import HRNetV2OCR
from hrseg.models.weights.file import FUNCTIONAL, WeightsFile, open_weights
from hrseg.models.weights.layouts import named_layout
from hrseg.models.weights.load import write_tensors, write_weights
from hrseg.models.weights.read import OWN_KEY
from hrseg.utils.files import replacing, require_writable, save_pickle

Entries = dict[str, Tensor]

# format -> endings of its files; safetensors is our own
FORMATS = {
    "official": (".pth",),
    "mmseg": (".pth",),
    "timm": (".pth", ".bin", ".safetensors"),
    "safetensors": (".safetensors",),
}
TOLERANCE = 1e-5  # of the largest result; a bias that goes into a running mean is rounded once


@dataclass(frozen=True)
class Conversion:
    """What `convert_weights` did.

    Args:
        network: Name of the network.
        layout: How the entries of the new file are named.
        entries: Their number.
        difference: Largest difference between what the two files compute of a random image, as a share of the largest
            result.
        notes: What the other code base has to be told.
    """

    network: str
    layout: str
    entries: int
    difference: float
    notes: tuple[str, ...]


def convert_weights(source: str | os.PathLike[str], path: str | os.PathLike[str], to: str) -> Conversion:
    """Writes weights for another code base. The file appears only if it computes the same, in evaluation mode.

    Args:
        source: What `create_model(from_file=...)` takes.
        path: The file to write.
        to: "official", for the code that published the network; "mmseg"; "timm"; or "safetensors", which is ours.

    Raises:
        UnknownNameError: No format has that name.
        ConfigError: The file's ending does not go with the format.
        WeightsError: The source cannot be read, or the other code base cannot compute what the network computes.
        OutputError: The file cannot be written; what stood there before is intact.
    """
    path = Path(path)
    if to not in FORMATS:
        raise UnknownNameError("format", to, FORMATS)
    if path.suffix not in FORMATS[to]:
        raise ConfigError(f"{path}: files for {to} end in {' or '.join(FORMATS[to])}")
    network = create_model(from_file=source).eval()
    name = network.config["name"]
    require_writable(path.parent)
    make = {"official": _official, "mmseg": _mmseg, "timm": _timm}.get(to)
    content = make(network) if make else {}
    differing = _differing(network, content) if make else []
    if to == "mmseg" and differing:
        raise WeightsError(f"mmsegmentation has no {name} with {', '.join(differing)}; {path} is not written")
    if to == "official" and differing:  # their code passes over it; without it hrseg would read another network
        content[OWN_KEY] = {"network": network.config}
    with replacing(path) as temporary:
        if make is None:
            write_weights(network, temporary)
        elif path.suffix == ".safetensors":
            write_tensors(content, temporary)
        else:
            save_pickle(content, temporary)
        file = open_weights(temporary)
        difference = (_difference_in_timm if to == "timm" else _difference)(network, file)
        if not difference <= TOLERANCE:
            raise WeightsError(f"{path} is not written: its results would differ by {difference:.1e} of the largest")
    notes = [f"the code that reads it has to be told {', '.join(differing)}"] if differing else []
    if to == "mmseg":
        notes.append("mmsegmentation computes the same for sizes that 32 divides")
    if to == "timm" and not isinstance(network, HRNetClassifier):
        notes.append(f"the trunk alone, for timm's {_timm_name(network)} with features_only and feature_location=''")
    layout = file.layout.origin if make else file.origin
    return Conversion(name, layout, len(file.entries), difference, tuple(notes))


# ------------------------------------------------------------------------------------------------------------ formats


def _official(network: Network) -> dict[str, Any]:
    """As the code that published the network writes it, wrappers and all."""
    state = _state(network)
    psa = any(".deattn." in name for name in state)
    of_openseg = isinstance(network, HRNetV2OCR) and network.config.get("inner_bias")
    if getattr(network, "negative_slope", 0) or network.config.get("head_kernel", 1) != 1:
        raise WeightsError("the official code has no head with leaky rectifiers or a first convolution of 3x3")
    if isinstance(network, HRFormerOCR) or of_openseg:
        return {"state_dict": _renamed(state, "openseg or HRFormer segmentation", "module.")}
    if isinstance(network, HRNetV2OCRMultiScale) or (isinstance(network, HRNetV2OCR) and psa):
        return {"state_dict": _renamed(state, "NVIDIA", "module.")}
    if isinstance(network, HRNetV2p):
        return {"state_dict": _renamed(state, "official detection")}
    if isinstance(network, HRFormerClassifier):
        return {"model": state}
    if isinstance(network, HRNetV2 | HRNetV2OCR):  # its networks were wrapped together with their losses
        return {f"model.{name}": entry for name, entry in state.items()}
    return state


def _mmseg(network: Network) -> dict[str, Any]:
    """For `FCNHead` or `OCRHead` on mmsegmentation's `HRNet`, which have no bias in front of batch norm."""
    state = _state(network)
    if type(network) not in (HRNetV2, HRNetV2OCR) or any(".deattn." in name for name in state):
        raise WeightsError(f"mmsegmentation has no {network.config['name']}; it has HRNetV2, plain and with OCR")
    layout = "mmsegmentation OCR" if isinstance(network, HRNetV2OCR) else "mmsegmentation"
    return {"meta": {}, "state_dict": _renamed(_without_idle_biases(state), layout)}


def _timm(network: Network) -> dict[str, Any]:
    """For timm's `HighResolutionNet`: the classifier, or the trunk of a network that enlarges as it does."""
    state = _state(network)
    if isinstance(network, HRFormer | HRNetV1) or any(".deattn." in name for name in state):
        raise WeightsError(f"timm has no {network.config['name']}; it has HRNet's classifiers and their trunks")
    if network.fuse_mode != "nearest":
        raise WeightsError(
            f"timm enlarges maps with fuse_mode='nearest', this {network.config['name']} with {network.fuse_mode!r}; "
            "the weights would fit and compute something else"
        )
    if isinstance(network, HRNetClassifier):
        return state
    return {name: entry for name, entry in state.items() if name.split(".")[0] not in network.head_names}


def _state(network: Network) -> Entries:
    return {name: entry.contiguous() for name, entry in network.state_dict().items()}


def _renamed(entries: Entries, layout: str, prefix: str = "") -> Entries:
    rename = named_layout(layout).theirs
    return {prefix + rename(name): entry for name, entry in entries.items()}


def _without_idle_biases(entries: Entries) -> Entries:
    """Takes the biases of convolutions in front of a batch norm into its running mean, which changes no result."""
    kept = dict(entries)
    for name in entries:
        match = re.fullmatch(r"(.*)\.(\d+)\.bias", name)
        if match is None:
            continue
        norm = f"{match[1]}.{int(match[2]) + 1}"
        mean = next((n for n in (f"{norm}.running_mean", f"{norm}.0.running_mean") if n in entries), None)
        if mean is not None:
            kept[mean] = kept[mean] - kept.pop(name)
    return kept


# ------------------------------------------------------------------------------------------------------------- checks


def _differing(network: Network, content: Mapping[str, Any]) -> list[str]:
    """What the network does in another way than a reader of a file with that content would expect of its layout."""
    file = open_weights(content)
    found, _ = file.converted(network.state_dict().__contains__)
    facts = file.facts(found)
    expected = {name: facts.get(name, default) for name, default in FUNCTIONAL.items()}
    ours = {name: getattr(network, name, default) for name, default in FUNCTIONAL.items()}
    differing = [f"{n}={ours[n]!r}" for n, value in expected.items() if value is not None and ours[n] != value]
    if isinstance(network, HRNetV2OCRMultiScale) and set(network.scales) != set(TRAINING_SCALES):
        differing.append(f"scales={list(network.scales)}")
    return differing


def _difference(network: Network, file: WeightsFile) -> float:
    """Largest difference of a random image's results from those of the network that the file makes, as a share."""
    twin = create_model(from_file=file).eval()
    return _largest(_results(network), _results(twin))


@torch.inference_mode()
def _difference_in_timm(network: Network, file: WeightsFile) -> float:
    """As `_difference`, from those of timm's own network."""
    found, _ = file.converted(network.state_dict().__contains__)
    import timm  # slow to import

    if isinstance(network, HRNetClassifier):
        theirs = timm.create_model(_timm_name(network), num_classes=network.num_classes, in_chans=network.in_channels)
    else:
        theirs = timm.create_model(
            _timm_name(network), features_only=True, feature_location="", in_chans=network.in_channels
        )
    theirs.load_state_dict(found)
    theirs.eval().double()
    if isinstance(network, HRNetClassifier):
        return _largest(_results(network), [theirs(_image(network))])
    assert isinstance(network, HRNet)
    # its first map is the stem's
    return _largest(network.double().features(_image(network)), theirs(_image(network))[1:])


def _timm_name(network: Network) -> str:
    size = re.sub(r".*(w\d+(?:_small_v\d)?).*", r"\1", network.config["name"])
    return f"hrnet_{size.removesuffix('_v1')}"


@torch.inference_mode()
def _results(network: Network) -> list[Tensor]:
    network.double()
    results = network.outputs(_image(network)) if isinstance(network, Segmenter) else network(_image(network))
    return list(results.values()) if isinstance(results, dict) else [results]


def _image(network: Network) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, network.config["in_channels"], 96, 128, generator=generator, dtype=torch.float64)


def _largest(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    pairs = list(zip(ours, theirs, strict=True))
    tiny = torch.finfo(torch.float64).tiny  # a network may say zero everywhere
    return max(float((our - their).abs().max() / our.abs().max().clamp_min(tiny)) for our, their in pairs)
