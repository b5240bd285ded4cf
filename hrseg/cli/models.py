"""`hrseg models`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence

from hrseg.cli.options import OptionParser
from hrseg.errors import UnknownNameError
from hrseg.models.catalog import MODELS, list_models


def run(verb: str, arguments: Sequence[str]) -> int:
    """Prints the table of networks."""
    parser = OptionParser(prog=f"hrseg {verb}", description="List the networks.")
    parser.add_argument("pattern", nargs="?", default="*", help="such as 'hrnetv2_w18*'")
    pattern = parser.parse_args(arguments).pattern
    names = list_models(pattern)
    if not names:
        raise UnknownNameError("model", pattern, MODELS)
    width = max(map(len, names))
    print(f"{'name':{width}}  parameters  multiply-adds (19 classes, 1024x2048)")
    for name in names:
        entry = MODELS[name]
        print(f"{name:{width}}  {entry.parameters / 1e6:8.2f} M  {entry.multiply_adds / 1e9:8.1f} G")
    return 0
