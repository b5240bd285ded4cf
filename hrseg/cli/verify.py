"""`hrseg verify`: checks every file of a data set; with `--guess`, writes a first classes file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hrseg.cli import one_line
from hrseg.cli.option_parser import OptionParser
from hrseg.errors import ConfigError
from hrseg.utils.files import replacing, write_json

if TYPE_CHECKING:
    from hrseg.data.tools.verify import Report

_SHOWN = 5  # findings of a kind on the terminal


def run(verb: str, arguments: Sequence[str]) -> int:
    """Checks a data set, or with `--guess` lists the classes in masks."""
    parser = OptionParser(
        prog=f"hrseg {verb}",
        usage="hrseg verify --config RECIPE [--data.KEY VALUE] [--json FILE]\n"
        "       hrseg verify --data CLASS [--data.KEY VALUE] [--json FILE]\n"
        "       hrseg verify --guess ROOT [--masks FOLDER] [--mask_suffix SUFFIX] [--snap FOLDER] [--output FILE]",
        description="Check every file of a data set, with the options of `hrseg fit`; count its classes; suggest class "
        "weights. Or, with --guess, write a first list of the classes in masks, to be edited.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the whole report")
    parser.add_argument("--guess", type=Path, metavar="ROOT", help="folder of a data set without a classes file")
    parser.add_argument(
        "--masks",
        default="masks",
        metavar="FOLDER",
        help="folder of the masks in ROOT, or in its folders train, val and test (%(default)s)",
    )
    parser.add_argument("--mask_suffix", default="", metavar="SUFFIX", help="ending of the mask names, such as _mask")
    parser.add_argument(
        "--snap",
        metavar="FOLDER",
        help="folder in ROOT for denoised PNG copies of masks that were saved as JPEG or with smoothed edges",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="classes file to write (ROOT/classes.yaml)")
    options, others = parser.parse_known_args(arguments)
    if options.guess is not None:
        if others:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        return _guess(options.guess, options.masks, options.mask_suffix, options.snap, options.output)
    return _verify(others, options.json)


def _verify(arguments: Sequence[str], json_file: Path | None) -> int:
    from hrseg.cli.data_options import parse_data  # Lightning: not for --help
    from hrseg.data.tools.verify import verify

    report = verify(parse_data(arguments))
    _show(report)
    if json_file is not None:
        write_json(json_file, report.to_dict())
        print(f"report: {json_file}")
    return 1 if report.findings else 0


def _guess(root: Path, masks: str, mask_suffix: str, snap: str | None, output: Path | None) -> int:
    output = output or root / "classes.yaml"
    if output.exists():
        raise ConfigError(f"{output} is there already and may have been edited; remove it, or give --output")

    from hrseg.data.tools.guess import guess_classes, mask_folders, snap_masks  # numpy and OpenCV: not for --help

    folders = mask_folders(root, masks)
    if snap is not None:
        values = snap_masks(folders, mask_suffix, root / snap)
        print(f"masks of {', '.join(values)} without noise: {root / snap}; use them with --data.masks {snap}\n")
        folders = {"": root / snap}
    text = guess_classes(folders, mask_suffix)
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{text}\nclasses: {output}; put the real names in")
    return 0


def _show(report: Report) -> None:
    images = ", ".join(f"{number} {split}" for split, number in report.num_images.items())
    print(f"{report.labels.name}: {images}")
    table = Table()
    table.add_column("class")
    for split in report.counts:
        table.add_column(f"{split} %", justify="right")
        table.add_column("images", justify="right")
    columns = [column for counts in report.counts.values() for column in (counts.shares, counts.images)]
    for name, *cells in zip(report.labels.class_names, *columns, strict=True):
        table.add_row(
            Text(name), *(f"{100 * cell:.3f}" if index % 2 == 0 else f"{cell}" for index, cell in enumerate(cells))
        )
    if report.counts:
        Console().print(table)
    for rule, weights in report.class_weights().items():
        print(f"class_weights: {weights}  # {rule} of {report.train_split}")
    print(_what_was_read(report.num_files, report.num_read))
    for remark in report.remarks:
        print(f"note: {one_line(remark)}")
    for kind, messages in report.findings.items():
        print(f"\n{kind}: {len(messages)}")
        for message in messages[:_SHOWN]:
            print(f"  {one_line(message)}")
        if len(messages) > _SHOWN:
            print(f"  and {len(messages) - _SHOWN} more; --json FILE writes them all")
    if not report.findings:
        print("nothing is wrong")


def _what_was_read(number: int, num_read: int) -> str:
    if num_read == number:
        return f"all {number} images and their labels were checked"
    if num_read == 0:
        return f"all {number} images and their labels are unchanged since the last check"
    return f"{num_read} of {number} images and their labels were checked; the others are unchanged since the last time"
