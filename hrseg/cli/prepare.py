"""`hrseg prepare`: label files of a data set from its original release."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hrseg.cli.option_parser import OptionParser
from hrseg.errors import ConfigError, UnknownNameError

DATA_SETS = ("pascal-context",)


def run(verb: str, arguments: Sequence[str]) -> int:
    """Writes label files and lists, and prints the number of images per split."""
    parser = OptionParser(
        prog=f"hrseg {verb}",
        description="Write label files and lists of PASCAL-Context from the detail API's JSON or the original release; "
        "or renumber labels that `hrseg verify` found to be in VOC-first order.",
        epilog="Existing labels are kept, so that an interrupted run can be resumed.",
    )
    parser.add_argument("data_set", type=_known, help=", ".join(DATA_SETS))
    parser.add_argument("--root", type=Path, required=True, help="folder VOC2010 with JPEGImages, and for the output")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--json", type=Path, metavar="FILE", help="trainval_merged.json of the detail API")
    source.add_argument("--mat", type=Path, metavar="FOLDER", help="original release: labels.txt and trainval/*.mat")
    source.add_argument("--voc_first", type=Path, metavar="FOLDER", help="labels, NAME.png, in VOC-first order")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; one per core by default")
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing labels")
    options = parser.parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers is {options.workers}; expected 1 or more")

    from hrseg.data.tools import prepare_pascal_context as prepare  # OpenCV: not for --help

    sources = {
        options.json: prepare.prepare_from_json,
        options.mat: prepare.prepare_from_mat,
        options.voc_first: prepare.prepare_from_voc_first,
    }
    del sources[None]
    ((source_path, make),) = sources.items()
    print(f"reading {source_path} ...", flush=True)
    counts = make(options.root, source_path, options.workers, options.overwrite)
    print(f"labels: {options.root / 'SegmentationClassContext'}")
    print(f"lists: {options.root / 'ImageSets' / 'SegmentationContext'}")

    from hrseg.data.datasets.pascal_context import PASCAL_CONTEXT_60  # torch: only once mistakes are reported

    for split, number in counts.items():
        print(f"{split}: {number} images")
        complete = PASCAL_CONTEXT_60.complete_counts(split)
        if number not in complete:
            print(f"warning: the complete {split} has {' or '.join(map(str, complete))} images", file=sys.stderr)
    return 0


def _known(name: str) -> str:
    if name not in DATA_SETS:
        raise UnknownNameError("data set", name, DATA_SETS)
    return name
