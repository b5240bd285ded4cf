"""`hrseg models`: the networks, with parameters, multiply-adds and weights."""

from __future__ import annotations

from collections.abc import Sequence

from hrseg.cli.option_parser import OptionParser
from hrseg.errors import UnknownNameError
from hrseg.models.catalog import MODELS, ModelInfo, list_families, list_models

_SIZES = "with 19 classes (classifiers: 1000) and one image of 1024x2048"


def run(verb: str, arguments: Sequence[str]) -> int:
    """Prints the families of networks, or the networks that fit a pattern."""
    parser = OptionParser(
        prog=f"hrseg {verb}",
        description="List the families of networks, or networks and their weights.",
    )
    parser.add_argument("pattern", nargs="?", help="such as 'hrnetv2_w48*'; '*' lists all")
    options = parser.parse_args(arguments)
    if options.pattern is None:
        _print_families()
    else:
        infos = [MODELS[name] for name in list_models(options.pattern)]
        if not infos:
            raise UnknownNameError("model", options.pattern, MODELS)
        _print_networks(infos)
    return 0


def weights_of(model: str) -> list[str]:
    """Names that `create_model(model, weights=...)` takes, the most used first."""
    from hrseg.models.weights.published import ZOO
    from hrseg.models.weights.zoo import NAMED_WEIGHTS  # not for the families

    tags = [tag for tag, fitting in NAMED_WEIGHTS.items() if model in fitting and ZOO[fitting[model]].readable]
    return sorted(tags, key=lambda tag: any(tag.startswith(f"{other}_") for other in tags))


def few(tags: Sequence[str], shown: int = 3) -> str:
    """The first names of weights, and how many more there are."""
    return ", ".join(tags[:shown]) + (f" (+{len(tags) - shown})" if len(tags) > shown else "")


def sizes_of(infos: Sequence[ModelInfo]) -> tuple[str, str]:
    """Parameters and multiply-adds of networks, from the smallest to the largest."""
    parameters = sorted(info.parameters for info in infos)
    multiply_adds = sorted(info.multiply_adds for info in infos)
    millions = dict.fromkeys(f"{number / 1e6:.2f}" for number in (parameters[0], parameters[-1]))
    billions = dict.fromkeys(f"{number / 1e9:.1f}" for number in (multiply_adds[0], multiply_adds[-1]))
    return f"{'-'.join(millions)} M", f"{'-'.join(billions)} G"


def _print_families() -> None:
    families = list_families(MODELS.values())
    rows = [("networks", "parameters", "multiply-adds", "what they are")]
    for family, infos in families.items():
        rows.append((family, *sizes_of(infos), infos[0].title))
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
            weights = weights_of(info.name) if len(infos) == 1 else [few(weights_of(info.name))]
            first, *others = weights or [""]
            rows.append((f"  {info.name}", *sizes_of([info]), first))
            rows += [("", "", "", tag) for tag in others]
    _print_columns(rows)
    print(f"\nSizes {_SIZES}.")
    print("`hrseg weights list` shows more on the weights; `create_model(..., weights=)` takes these names.")


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Prints aligned columns; all but the first and the last, which hold numbers, to the right."""
    whole = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for row in rows:
        first, *others = row
        cells = [cell.rjust(width) for cell, width in zip(others[:-1], widths[1:-1], strict=False)]
        print("  ".join([first.ljust(widths[0]) if others else first, *cells, *others[-1:]]).rstrip())
