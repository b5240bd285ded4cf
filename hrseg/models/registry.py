"""The registry of networks: one `register(...)` a family, in the file that defines the network. Needs no torch.

A family is a set of networks that differ only in size; "SIZE" in its name stands for one. Nothing else in hrseg names a
family: `create_model` builds, `load_weights` and `open_weights` recognise, `convert_weights` writes and `hrseg models`
lists what is registered, by what the row says. A network of a user's own is registered in the same way:

    class MyNet(Segmenter): ...

    register("mynet_SIZE", MyNet, {"s": 32, "l": 64}, title="MyNet")  # create_model("mynet_s") calls MyNet(32)

A row is read

- by `factory`: `builders`, name -> constructor;
- by `complexity`, which writes the catalog that lists without torch: `title`, `authors`, `arxiv`, `counts_attention`,
  `backbone.pretrained_as`;
- by `weights.identify`, which tells the network from a state dict: `backbone.block_key` and `head_keys` choose the
  family, `backbone.read` gives the size and the backbone's arguments, `classes_key` the number of classes,
  `head_arguments` the rest. Keys and shapes alone decide, so these functions take `Shapes`;
- by `weights.load`: `head_names` of all families are the heads that `reinit_head` discards, `backbone.optional_keys`
  what a backbone's file may lack, `unused_keys` what it may hold in excess. What a single network knows of loading
  are attributes of `base.Network`: `head_names`, `head_aliases`, `adapt_backbone`;
- by `convert`: `formats`, how other code bases write such a network;
- by `weights.zoo`, out of `catalog.MODELS`: `pretrained_as`.

`FAMILIES` and `BUILDERS` hold what is registered. Importing any network of hrseg registers all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hrseg.errors import ConfigError

Shapes = Mapping[str, tuple[int, ...]]  # of the tensors of a state dict, by key
Builder = Callable[..., Any]  # a network's class or a partial of it


@dataclass(frozen=True)
class Backbone:
    r"""What tells the backbone of a network in a state dict.

    Args:
        read: Returns size and constructor arguments of the backbone from shapes; None if it is of no known size.
        pretrained_as: Name of the network under which ImageNet weights of the backbone are published.
        block_key: A key that only this kind of block has, where blocks are not HRNet's plain ones.
        optional_keys: Patterns of keys that files of backbones may lack; the network then keeps their initialisation.
            Keys that agree in the pattern's first group are missing together or not at all.
    """

    read: Callable[[Shapes], tuple[str, dict[str, Any]] | None]
    pretrained_as: str
    block_key: str = ""
    optional_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileFormat:
    """How another code base writes the state dict of a network.

    Args:
        layout: The `origin` of a row of `weights.layouts.LAYOUTS`, whose keys it uses; empty for our own keys.
        prefix: What stands in front of every key.
        under: The key that the file holds the state dict under; empty for a bare state dict.
        backbone_only: Whether the head is left out.
    """

    layout: str = ""
    prefix: str = ""
    under: str = ""
    backbone_only: bool = False


@dataclass(frozen=True)
class Family:
    r"""Networks that differ only in size.

    Args:
        name: Such as "hrnetv2_SIZE_ocr"; without "SIZE", the family is one network.
        builders: The constructor for each size.
        title: What they are, in a few words.
        authors: Of the paper.
        arxiv: Number of the paper there.
        counts_attention: Whether the paper's multiply-adds are those of linear layers and attention, too; else those of
            convolutions.
        backbone: What tells their backbone in a state dict; None if they are never recognised in one.
        head_keys: Keys that together only networks with this head have; of several families that fit, the one with the
            most keys is chosen.
        classes_key: Key of the tensor whose first dimension is the number of classes.
        head_arguments: Reads the constructor arguments of the head from shapes.
        unused_keys: Patterns of keys of the backbone's files that the network has no use for.
        formats: How other code bases, "official", "mmseg" or "timm", write such a network; a function of the network's
            config where that depends on its arguments.
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
        """Constructors by the name of the network."""
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
        name: As of `Family`.
        network: The class, a `base.Network`; a partial of it for other defaults.
        sizes: Its first argument for each size.
        title: As of `Family`.
        row: Any other argument of `Family`.

    Raises:
        ConfigError: Another network has one of the names.
        TypeError: `Family` has no such argument.
    """
    builders = {size: partial(network, value) for size, value in sizes.items()} if sizes else {"": network}
    family = Family(name, builders, title, **row)
    known = FAMILIES.get(name)
    if known and _path(known.network) == _path(family.network):  # a cell of a notebook that is run again
        known = FAMILIES.pop(name)
        for network_name in known.networks:
            del BUILDERS[network_name]
    if clash := sorted(BUILDERS.keys() & family.networks.keys()):
        raise ConfigError(f"a network {clash[0]} is registered already; give {name} another name")
    FAMILIES[name] = family
    BUILDERS.update(family.networks)


def _path(network: Any) -> str:
    return f"{network.__module__}.{network.__qualname__}"
