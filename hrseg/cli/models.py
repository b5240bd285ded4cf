"""`hrseg models`: what there is to choose from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hrseg.cli.option_parser import OptionParser
from hrseg.errors import UnknownNameError
from hrseg.models.catalog import MODELS, ModelInfo, list_families, list_models

_SIZES = "with 19 classes (classifiers: 1000) and one image of 1024x2048"
_DATA_SETS = ("Cityscapes", "PASCAL-Context", "LIP", "COCO-Stuff", "ADE20K")
_PUBLISHERS = {"mmseg": "mmsegmentation", "openseg": "openseg", "paddleseg": "PaddleSeg", "nvidia": "NVIDIA"}

# what of `ModelInfo` is shown, in which unit, and that one's sign
_PARAMETERS = ("parameters", 1e6, "M")
_MULTIPLY_ADDS = ("multiply_adds", 1e9, "G")


def run(verb: str, arguments: Sequence[str]) -> int:
    """Prints the families of networks, or the networks that fit a pattern."""
    parser = OptionParser(
        prog=f"hrseg {verb}",
        description="List the families of networks, or networks and the weights there are for them.",
    )
    parser.add_argument("pattern", nargs="?", help="such as 'hrnetv2_w48*'; '*' lists all")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the documentation")
    options = parser.parse_args(arguments)
    if options.markdown:
        print(markdown())
    elif options.pattern is None:
        _print_families()
    else:
        infos = [MODELS[name] for name in list_models(options.pattern)]
        if not infos:
            raise UnknownNameError("model", options.pattern, MODELS)
        _print_networks(infos)
    return 0


def weights_of(model: str) -> list[str]:
    """What `create_model(model, weights=...)` takes by name, the weights that most will want in front."""
    from hrseg.models.weights.published import ZOO
    from hrseg.models.weights.zoo import NAMED_WEIGHTS  # which the families can do without

    tags = [tag for tag, fitting in NAMED_WEIGHTS.items() if model in fitting and ZOO[fitting[model]].readable]
    return sorted(tags, key=lambda tag: any(tag.startswith(f"{other}_") for other in tags))


def markdown() -> str:
    """The tables of the documentation: families with their papers, and networks with published results."""
    families: list[tuple[str, ...]] = [("networks", "what they are", "paper", "parameters", "multiply-adds")]
    for family, infos in list_families(MODELS.values()).items():
        of_all = infos[0]
        paper = f"{of_all.authors}, [arXiv {of_all.arxiv}](https://arxiv.org/abs/{of_all.arxiv})"
        families.append(
            (f"`{family}`", of_all.title, paper, _range(infos, *_PARAMETERS), _range(infos, *_MULTIPLY_ADDS))
        )
    results: list[tuple[str, ...]] = [("network", "parameters", "multiply-adds", *_DATA_SETS, "`weights=`")]
    for name, info in MODELS.items():
        cells = [_published(name, data_set) for data_set in _DATA_SETS]
        if any(cells):
            sizes = (_range([info], *_PARAMETERS), _range([info], *_MULTIPLY_ADDS))
            results.append((f"`{name}`", *sizes, *cells, _few(weights_of(name))))
    return f"{_table(families)}\n\n{_table(results)}"


def _print_families() -> None:
    families = list_families(MODELS.values())
    rows = [("networks", "parameters", "multiply-adds", "what they are")]
    for family, infos in families.items():
        rows.append((family, _range(infos, *_PARAMETERS), _range(infos, *_MULTIPLY_ADDS), infos[0].title))
    _print_columns(rows)
    sizes: dict[tuple[str, ...], list[str]] = {}
    for family, infos in families.items():
        sizes.setdefault(tuple(info.size for info in infos), []).append(family.split("_")[0])
    for of_these, prefixes in sizes.items():
        print(f"\nSIZE of {', '.join(dict.fromkeys(prefixes))}: {', '.join(of_these)}", end="")
    print(f"\nSmallest to largest, {_SIZES}.")
    print(f"`hrseg models 'hrnetv2_w48*'` lists the networks of such names and their weights; '*' all {len(MODELS)}.")


def _print_networks(infos: Sequence[ModelInfo]) -> None:
    rows: list[tuple[str, ...]] = [("networks", "parameters", "multiply-adds", "weights")]
    for members in list_families(infos).values():
        rows.append((f"{members[0].title}: arXiv {members[0].arxiv}",))
        for info in members:
            weights = weights_of(info.name) if len(infos) == 1 else [_few(weights_of(info.name))]
            first, *others = weights or [""]
            rows.append((f"  {info.name}", _range([info], *_PARAMETERS), _range([info], *_MULTIPLY_ADDS), first))
            rows += [("", "", "", tag) for tag in others]
    _print_columns(rows)
    print(f"\nSizes {_SIZES}.")
    print("`hrseg weights list` tells more of the weights; `create_model(..., weights=)` takes these names.")


def _few(tags: Sequence[str], shown: int = 3) -> str:
    return ", ".join(tags[:shown]) + (f" (+{len(tags) - shown})" if len(tags) > shown else "")


def _range(infos: Iterable[ModelInfo], quantity: str, unit: float, suffix: str) -> str:
    values = [getattr(info, quantity) / unit for info in infos]
    ends = [f"{end:.{2 if unit == 1e6 else 1}f}" for end in (min(values), max(values))]
    return f"{'-'.join(dict.fromkeys(ends))} {suffix}"


def _published(model: str, data_set: str) -> str:
    """The first result on a data set's val split that is known of a network, with what is not usual of its protocol."""
    from hrseg.models.weights.published import FURTHER_RESULTS, ZOO

    for checkpoint in ZOO.values():
        if checkpoint.network == model and checkpoint.result and checkpoint.protocol.startswith(f"{data_set} val"):
            publisher = _PUBLISHERS.get(checkpoint.tag.rpartition("_")[2], "")
            more = "trained on Mapillary Vistas too" if "Mapillary" in checkpoint.data else ""
            return _cell(checkpoint.result, checkpoint.protocol, publisher, more)
    for network, protocol, result in FURTHER_RESULTS:
        if network == model and protocol.startswith(f"{data_set} val"):
            return _cell(result, protocol)
    return ""


def _cell(result: float, protocol: str, *more: str) -> str:
    views = re.sub(r"^.*? val(, )?|whole image, |sliding window, |473x473, |one scale", "", protocol)
    remarks = [remark for remark in (views, *more) if remark]
    return f"{result} ({'; '.join(remarks)})" if remarks else f"{result}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    heading, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([heading, "|" + "---|" * len(rows[0]), *others])


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Cells below each other; numbers, which all but the first and the last are, to the right."""
    whole = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for row in rows:
        first, *others = row
        cells = [cell.rjust(width) for cell, width in zip(others[:-1], widths[1:-1], strict=False)]
        print("  ".join([first.ljust(widths[0]) if others else first, *cells, *others[-1:]]).rstrip())
