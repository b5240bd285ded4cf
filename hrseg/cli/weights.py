"""`hrseg weights`: lists, downloads, checks and converts pretrained weights."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from hrseg.cli.option_parser import OptionParser
from hrseg.errors import ConfigError, HrsegError, WeightsError
from hrseg.models.weights.mirrors import Mirror
from hrseg.models.weights.published import ZOO, PublishedWeights
from hrseg.models.weights.zoo import (
    check_weights,
    find_weights,
    get_weights,
    list_weights,
    place_weights,
    unknown_weights,
)
from hrseg.utils.files import remove_stale
from hrseg.utils.paths import cache_folder


def run(verb: str, arguments: Sequence[str]) -> int:
    """Entry point of the verb."""
    parser = OptionParser(
        prog=f"hrseg {verb}",
        description="List, download, check and convert pretrained weights. They are kept in $HRSEG_HOME/weights, by "
        "default ~/.cache/hrseg/weights, and those from the Hugging Face hub in its own cache.",
    )
    actions = parser.add_subparsers(dest="action", metavar="list|get|check|convert", required=True)
    listing = actions.add_parser("list", help="names, published results and sources; everything about one name")
    getting = actions.add_parser("get", help="download weights and print their paths")
    checking = actions.add_parser("check", help="check sizes and hashes of the weights on this machine")
    for action in (listing, checking):
        action.add_argument(
            "pattern",
            nargs="?",
            default="*",
            help="names of weights, such as 'hrnetv2_w48.*', or a network, such as hrnetv2_w48",
        )
    getting.add_argument("names", nargs="+", metavar="NAME", help="from `hrseg weights list`")
    getting.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="a manual download: the weights, or an archive that contains them",
    )
    converting = actions.add_parser("convert", help="convert weights of any layout for another code base")
    converting.add_argument("source", metavar="IN", help="a file of weights, or a name from `hrseg weights list`")
    converting.add_argument("output", metavar="OUT", type=Path, help="the file to write")
    converting.add_argument(
        "--to", required=True, metavar="FORMAT", help="official, mmseg, timm, or safetensors (ours)"
    )
    options = parser.parse_args(arguments)
    if options.action == "convert":
        return _convert(options.source, options.output, options.to)
    if options.action == "get":
        return _get(options.names, options.source)
    names = list_weights(options.pattern)
    if not names:
        raise unknown_weights(options.pattern)
    if options.action == "check":
        return _check(names)
    if names == [options.pattern]:
        _show(ZOO[names[0]])
    else:
        _list(names)
    return 0


def _list(names: Sequence[str]) -> None:
    width = max(map(len, names))
    print(f"{'name':{width}}  published            from         here  trained on")
    for name in names:
        published = ZOO[name]
        here = "yes" if find_weights(name) else ""
        print(f"{name:{width}}  {_result(published):19}  {_places(published):11}  {here:4}  {published.data}")
    print("\nResults are the publishers', not measured here. The links were not tried. Give one name for details.")


def _show(published: PublishedWeights) -> None:
    path = find_weights(published.name)
    rows: dict[str, object] = {
        "name": published.name,
        "network": published.network,
        "trained on": published.data,
        "published": ", ".join(text for text in (_result(published), published.protocol) if text),
        "multi-scale": "" if published.result_ms is None else f"{published.result_ms} {published.metric}",
        "licence": published.licence or "none stated",
        "parameters": ", ".join(f"{key}={value!r}" for key, value in published.parameters.items()),
        "images": f"{published.channels}, mean {published.mean}, std {published.std}",
        "note": published.note,
        "here": path or "no",
    }
    rows |= {f"place {number}": _describe(mirror) for number, mirror in enumerate(published.mirrors, 1)}
    rows["by hand"] = f"{published.page_file}: {published.page}" if published.page else ""
    for title, content in rows.items():
        if content:
            print(f"{title:11}  {content}")


def _get(names: Sequence[str], source: Path | None) -> int:
    if source is not None and len(names) > 1:
        raise ConfigError(f"--from {source} is one file, for {len(names)} names; give one name")
    for name in names:
        if name not in ZOO:  # before anything is downloaded
            raise unknown_weights(name)
    # logs retries and waiting for other processes
    logging.basicConfig(format="%(message)s")
    for talkative in ("hrseg.models.weights.download", "hrseg.utils.locks"):
        logging.getLogger(talkative).setLevel(logging.INFO)
    remove_stale(cache_folder() / "weights")
    failures: list[HrsegError] = []
    for name in names:
        try:
            path = place_weights(name, source) if source is not None else get_weights(name, for_other_code=True)
        except HrsegError as error:
            failures.append(error)
        else:
            print(path, flush=True)
    for failure in failures[:-1]:
        print(f"hrseg: {failure}", file=sys.stderr)
    if failures:
        raise failures[-1]  # `hrseg` prints it
    return 0


def _convert(source: str, output: Path, to: str) -> int:
    from hrseg.models.convert import convert_weights  # torch: not for the other actions

    done = convert_weights(source, output, to)
    print(f"{output}: {done.network}, {done.entries} keys, {done.layout}")
    print(f"checked with a random image: largest difference {done.difference:.1e} of the largest result")
    for note in done.notes:
        print(f"note: {note}")
    return 0


def _check(names: Sequence[str]) -> int:
    remove_stale(cache_folder() / "weights")
    found = {name: path for name in names if (path := find_weights(name))}
    if not found:
        where = f"neither in {cache_folder() / 'weights'} nor in the hub's cache"
        if len(names) == 1:
            raise WeightsError(f"{names[0]} is {where}; `hrseg weights get {names[0]}` downloads it, or says how to")
        print(f"none of these {len(names)} weights is on this machine, {where}")
    faults = 0
    for name, path in found.items():
        sound, finding = check_weights(name, path)
        faults += not sound
        print(f"{name}: {path} {finding}{'' if sound else '; remove it and download it again'}", flush=True)
    return 1 if faults else 0


def _result(published: PublishedWeights) -> str:
    return "" if published.result is None else f"{published.result} {published.metric}"


def _places(published: PublishedWeights) -> str:
    hub = sum(bool(mirror.repository) for mirror in published.mirrors)
    links = len(published.mirrors) - hub
    parts = ["hub"] * hub + ([f"{links} link{'s' * (links > 1)}"] if links else [])
    return ", ".join(parts) or "by hand"


def _describe(mirror: Mirror) -> str:
    facts = [f"{mirror.size} bytes"] if mirror.size is not None else []
    facts += [f"sha256 {mirror.sha256}..."] if mirror.sha256 else []
    return f"{mirror.url}  {', '.join(facts) or 'size and hash are not published'}"
