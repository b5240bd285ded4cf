"""The registry of networks: each family calls `register(...)` in its own network file. Needs no torch.

A family is a set of networks that differ only in size; "SIZE" in its name stands for the size. Nothing else in hrseg
names a family: `create_model` builds, `load_weights` and `open_weights` recognise, `convert_weights` writes and `hrseg
models` lists what is registered. Register your own network in the same way:

    class MyNet(Segmenter): ...

    register("mynet_SIZE", MyNet, {"s": 32, "l": 64}, title="MyNet")  # create_model("mynet_s") calls MyNet(32)

The fields of a `Family` are read by

- `factory`: `builders`;
- `complexity`, which writes the catalog that is listed without torch: `title`, `authors`, `arxiv`, `counts_attention`,
  `backbone.pretrained_as`;
- `weights.identify`, which identifies the network of a state dict: `backbone.block_key` and `head_keys` select the
  family, `backbone.read` the size and the backbone's arguments, `classes_key` the number of classes, `head_arguments`
  the rest. Only keys and shapes matter, so these functions take `Shapes`;
- `weights.load`: `head_names` of all families are the heads that `reinit_head` discards, `backbone.optional_keys` the
  keys that a backbone's file may lack, `unused_keys` those that it may have in excess. What concerns one network are
  attributes of `base.Network`: `head_names`, `head_aliases`, `adapt_backbone`;
- `convert`: `formats`;
- `weights.zoo`, through `catalog.MODELS`: `backbone.pretrained_as`.

`FAMILIES` and `BUILDERS` hold what is registered. Importing any network of hrseg registers all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hrseg.errors import ConfigError

Shapes = Mapping[str, tuple[int, ...]]  # shapes of a state dict by key
Builder = Callable[..., Any]  # a network's class, or a partial of it


@dataclass(frozen=True)
class Backbone:
    """How to recognise a backbone in a state dict.

    Args:
        read: Returns the backbone's size and constructor arguments from shapes; None if it is unknown.
        pretrained_as: Name of the network under which ImageNet weights of the backbone are published.
        block_key: A key that only this kind of block has; empty for HRNet's plain blocks.
        optional_keys: Patterns of keys that files of backbones may lack; the network then keeps their initialisation.
            Keys with the same text in the pattern's first group must be missing together.
    """

    read: Callable[[Shapes], tuple[str, dict[str, Any]] | None]
    pretrained_as: str
    block_key: str = ""
    optional_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileFormat:
    """How another code base writes the state dict of a network.

    Args:
        layout: The `origin` of the row of `weights.layouts.LAYOUTS` whose keys it uses; empty for our own keys.
        prefix: Prefix of every key.
        under: The key under which the file holds the state dict; empty for a bare state dict.
        backbone_only: Whether the head is left out.
    """

    layout: str = ""
    prefix: str = ""
    under: str = ""
    backbone_only: bool = False


@dataclass(frozen=True)
class Family:
    """Networks that differ only in size.

    Args:
        name: Such as "hrnetv2_SIZE_ocr"; without "SIZE", the family is a single network.
        builders: The constructor for each size.
        title: Short description.
        authors: Authors of the paper.
        arxiv: Its arXiv number.
        counts_attention: Whether the paper's multiply-adds include linear layers and attention, not only convolutions.
        backbone: How to recognise the backbone in a state dict; None if it never is.
        head_keys: Keys that only networks with this head have; if several families match, the one with most keys wins.
        classes_key: Key of the tensor whose first dimension is the number of classes.
        head_arguments: Reads the constructor arguments of the head from shapes.
        unused_keys: Patterns of keys in the backbone's files that the network does not use.
        formats: How other code bases, "official", "mmseg" or "timm", write such a network; a function of the network's
            config if it depends on arguments.
    """

    name: str
    builders: Mapping[str, Builder]
    title: str
    authors: str = ""
    arxiv: str = ""
    counts_attention: bool = False
    backbone: Backbone | None = None
    head_keys: tuple[str, ...] = ()
    classes_key: str = ""
    head_arguments: Callable[[Shapes], dict[str, Any]] = lambda shapes: {}
    unused_keys: tuple[str, ...] = ()
    formats: Mapping[str, FileFormat | Callable[[Mapping[str, Any]], FileFormat]] = field(default_factory=dict)

    @property
    def networks(self) -> dict[str, Builder]:
        """Constructors by network name."""
        return {self.name.replace("SIZE", size): builder for size, builder in self.builders.items()}

    @property
    def network(self) -> Any:
        """The class of the networks."""
        builder = next(iter(self.builders.values()))
        while isinstance(builder, partial):
            builder = builder.func
        return builder

    @property
    def head_names(self) -> tuple[str, ...]:
        """The attributes that make up the head."""
        names: tuple[str, ...] = getattr(self.network, "head_names", ())
        return names


FAMILIES: dict[str, Family] = {}  # in the order of registration
BUILDERS: dict[str, Builder] = {}  # name of a network -> its constructor


def register(name: str, network: Builder, sizes: Mapping[str, Any] | None = None, *, title: str, **row: Any) -> None:
    """Registers a family of networks, for `create_model` and for everything that reads or writes weights.

    Args:
        name: See `Family`.
        network: The class, a `base.Network`; a partial of it for other defaults.
        sizes: Its first argument for each size.
        title: See `Family`.
        row: Any other argument of `Family`.

    Raises:
        ConfigError: Another network has one of the names.
        TypeError: `Family` has no such argument.
    """
    builders = {size: partial(network, value) for size, value in sizes.items()} if sizes else {"": network}
    family = Family(name, builders, title, **row)
    known = FAMILIES.get(name)
    if known and _path(known.network) == _path(family.network):  # a notebook cell that is run again
        known = FAMILIES.pop(name)
        for network_name in known.networks:
            del BUILDERS[network_name]
    if clash := sorted(BUILDERS.keys() & family.networks.keys()):
        raise ConfigError(f"a network {clash[0]} is registered already; give {name} another name")
    FAMILIES[name] = family
    BUILDERS.update(family.networks)


def _path(network: Any) -> str:
    return f"{network.__module__}.{network.__qualname__}"
