"""`convert_weights`: writes our networks as files for other code bases.

Refuses networks that the other code base cannot compute, and reports settings that its files do not hold.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrseg.errors import ConfigError, UnknownNameError, WeightsError
from hrseg.models.factory import create_model
from hrseg.models.networks.base import Network, Segmenter
from hrseg.models.networks.hrnet import HRNet
from hrseg.models.registry import FAMILIES, Family, FileFormat
from hrseg.models.weights.file import FUNCTIONAL, WeightsFile, open_weights
from hrseg.models.weights.layouts import named_layout
from hrseg.models.weights.read import OWN_KEY
from hrseg.models.weights.save import write_tensors, write_weights
from hrseg.utils.files import replacing, require_writable, save_pickle

StateDict = dict[str, Tensor]

# format -> suffixes of its files; safetensors is hrseg's own
FORMATS = {
    "official": (".pth",),
    "mmseg": (".pth",),
    "timm": (".pth", ".bin", ".safetensors"),
    "safetensors": (".safetensors",),
}
TOLERANCE = 1e-5  # relative to the largest result; merging a bias into a running mean rounds once
_CODE = {"official": "the official code", "mmseg": "mmsegmentation", "timm": "timm"}


@dataclass(frozen=True)
class Conversion:
    """Result of `convert_weights`.

    Args:
        network: Name of the network.
        layout: Layout of the new file.
        entries: Number of its keys.
        difference: Largest absolute difference between the results of the two files for a random image, relative to
            the largest result.
        notes: Settings and limits of the other code base that a user has to know.
    """

    network: str
    layout: str
    entries: int
    difference: float
    notes: tuple[str, ...]


def convert_weights(source: str | os.PathLike[str], path: str | os.PathLike[str], to: str) -> Conversion:
    """Writes weights for another code base, after checking that they give the same results in evaluation mode.

    Args:
        source: What `create_model(from_file=...)` takes.
        path: The file to write.
        to: "official" for the code that published the network, "mmseg", "timm", or "safetensors" for hrseg's own.

    Raises:
        UnknownNameError: No format has that name.
        ConfigError: The format's files have another suffix.
        WeightsError: The source cannot be read, or the other code base cannot compute what the network computes.
        OutputError: The file cannot be written; an earlier file stays intact.
    """
    path = Path(path)
    if to not in FORMATS:
        raise UnknownNameError("format", to, FORMATS)
    if path.suffix not in FORMATS[to]:
        raise ConfigError(f"{path}: files for {to} end in {' or '.join(FORMATS[to])}")
    network = create_model(from_file=source).eval()
    name = network.config["name"]
    require_writable(path.parent)
    content = {} if to == "safetensors" else _content(network, to)
    differing = _differing(network, content) if content else []
    if to == "mmseg" and differing:
        raise WeightsError(f"mmsegmentation has no {name} with {', '.join(differing)}; {path} is not written")
    if to == "official" and differing:  # for hrseg alone: the official code ignores it
        content[OWN_KEY] = {"network": network.config}
    with replacing(path) as temporary:
        if to == "safetensors":
            write_weights(network, temporary)
        elif path.suffix == ".safetensors":
            write_tensors(content, temporary)
        else:
            save_pickle(content, temporary)
        file = open_weights(temporary)
        difference = (_difference_in_timm if to == "timm" else _difference)(network, file)
        if not difference <= TOLERANCE:
            raise WeightsError(f"{path} is not written: its results would differ by {difference:.1e} of the largest")
    notes = [f"set {', '.join(differing)} in the code that reads it"] if differing else []
    if to == "mmseg":
        notes.append("mmsegmentation gives the same results for image sizes divisible by 32")
    if to == "timm" and _format(network, to).backbone_only:
        notes.append(f"the backbone alone, for timm's {_timm_name(network)} with features_only and feature_location=''")
    layout = file.origin if to == "safetensors" else file.layout.origin
    return Conversion(name, layout, len(file.entries), difference, tuple(notes))


# ------------------------------------------------------------------------------------------------------------ formats


def _content(network: Network, to: str) -> dict[str, Any]:
    """Makes the content of the file, by the family's row in the registry."""
    config = network.config
    form = _format(network, to)
    if to == "official" and (config.get("negative_slope") or config.get("head_kernel", 1) != 1):
        raise WeightsError("the official code has no head with leaky ReLU or a first convolution of 3x3")
    fuse_mode = getattr(network, "fuse_mode", None)
    if to == "timm" and fuse_mode != "nearest":
        raise WeightsError(
            f"timm upsamples maps with fuse_mode='nearest', this {config['name']} with {fuse_mode!r}; "
            "the weights would fit, but results would differ"
        )
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    if form.backbone_only:
        state = {key: tensor for key, tensor in state.items() if key.split(".")[0] not in network.head_names}
    if to == "mmseg":  # its convolutions before batch norm have no biases
        state = _without_idle_biases(state)
    if form.layout:
        state = {named_layout(form.layout).theirs(key): tensor for key, tensor in state.items()}
    state = {form.prefix + key: tensor for key, tensor in state.items()}
    if to == "mmseg":
        return {"meta": {}, "state_dict": state}
    return {form.under: state} if form.under else dict(state)


def _format(network: Network, to: str) -> FileFormat:
    """Returns how the code base writes the network.

    Raises:
        WeightsError: It has no such network.
    """
    form = _family(network).formats.get(to)
    if form is None:
        known = ", ".join(name for name, family in FAMILIES.items() if to in family.formats)
        raise WeightsError(f"{_CODE[to]} has no {network.config['name']}; it has {known}")
    return form if isinstance(form, FileFormat) else form(network.config)


def _family(network: Network) -> Family:
    return next(family for family in FAMILIES.values() if network.config["name"] in family.networks)


def _without_idle_biases(entries: StateDict) -> StateDict:
    """Merges the biases of convolutions before batch norm into its running mean, which keeps the results."""
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
    """The settings in which the network differs from the defaults of the content's layout, as "name=value"."""
    file = open_weights(content)
    found, _ = file.converted(network.state_dict().__contains__)
    facts = file.facts(found)
    expected = {name: facts.get(name, default) for name, default in FUNCTIONAL.items()}
    ours = {name: getattr(network, name, default) for name, default in FUNCTIONAL.items()}
    differing = [f"{n}={ours[n]!r}" for n, value in expected.items() if value is not None and ours[n] != value]
    if "scales" in network.config:  # in evaluation, which files do not hold
        default = signature(type(network)).parameters["scales"].default
        if set(network.config["scales"]) != set(default):
            differing.append(f"scales={network.config['scales']}")
    return differing


def _difference(network: Network, file: WeightsFile) -> float:
    """Largest relative difference between the results of the network and of the file, for a random image."""
    return _largest(_results(network), _results(create_model(from_file=file).eval()))


@torch.inference_mode()
def _difference_in_timm(network: Network, file: WeightsFile) -> float:
    """Largest relative difference between the results of the network and of timm's with the file."""
    found, _ = file.converted(network.state_dict().__contains__)
    import timm  # slow to import

    form, config = _format(network, "timm"), network.config
    options: dict[str, Any] = {"features_only": True, "feature_location": ""}
    if not form.backbone_only:
        options = {"num_classes": config["num_classes"]}
    theirs = timm.create_model(_timm_name(network), in_chans=config["in_channels"], **options)
    theirs.load_state_dict(found)
    theirs.eval().double()
    if not form.backbone_only:
        return _largest(_results(network), [theirs(_image(network))])
    assert isinstance(network, HRNet)
    # timm's first map is the stem's
    return _largest(network.double().features(_image(network)), theirs(_image(network))[1:])


def _timm_name(network: Network) -> str:
    prefix, _, suffix = _family(network).name.partition("SIZE")
    size: str = network.config["name"].removeprefix(prefix).removesuffix(suffix)
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
    tiny = torch.finfo(torch.float64).tiny  # all results may be zero
    return max(float((our - their).abs().max() / our.abs().max().clamp_min(tiny)) for our, their in pairs)
