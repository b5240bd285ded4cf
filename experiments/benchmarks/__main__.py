"""`python -m experiments.benchmarks`: compares hrseg with straightforward implementations."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hrseg.cli import one_line
from hrseg.cli.option_parser import OptionParser
from hrseg.errors import ConfigError, HrsegError, UnknownNameError

if TYPE_CHECKING:
    from experiments.benchmarks.interleaved import Row

COMMAND = "python -m experiments.benchmarks"

SUBJECTS = {
    "forward": "the forward pass of one image",
    "cpu": "networks on a CPU in each precision, and their share of its peak",
    "backends": "from an image to labels on a CPU, by PyTorch and by exported files",
    "windows": "sliding-window inference of one image",
    "protocols": "the papers' test protocols on one image",
    "predict": "prediction of image files, from reading to writing",
    "train": "time and memory of one training step",
    "deterministic": "time and memory of one training step in deterministic mode",
    "ddp": "one training step of two ranks and of one",
    "scaling": "communication and throughput of training on many GPUs: predicted, not measured",
    "hrformer": "time and memory of HRFormer's window attention",
    "ocr": "time and memory of object-contextual representations",
    "rmi": "time and memory of the RMI loss",
    "data": "loading training samples from PNG files on one core",
    "metric": "updating a confusion matrix with one frame",
    "startup": "start-up of the command",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints tables and, with `--output`, writes CSV rows.

    Returns:
        0, or 2 after a user error, reported as a one-line error.
    """
    try:
        return _main(arguments)
    except HrsegError as error:
        print(f"benchmarks: {one_line(str(error))}", file=sys.stderr)
        return 2


def _main(arguments: Sequence[str] | None) -> int:
    parser = OptionParser(
        prog=COMMAND,
        description="Compare hrseg with straightforward implementations; timings are interleaved.",
        epilog="subjects:\n" + "\n".join(f"  {subject:20}  {what}" for subject, what in SUBJECTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subject", nargs="?", default="all", help="one of the subjects below; all by default")
    parser.add_argument("--repeats", type=int, metavar="N", default=10, help="rounds of each measurement (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", default=2, help="CPU threads of PyTorch (%(default)s)")
    parser.add_argument("--cityscapes", type=Path, metavar="FOLDER", help="for `data`; generated scenes by default")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="for `predict`; generated scenes by default")
    parser.add_argument("--output", type=Path, metavar="CSV", help="file to write; its rows of other subjects are kept")
    scaling = parser.add_argument_group("for `scaling`")
    scaling.add_argument("--network", metavar="NAME", help="network, see `hrseg models`; four of them by default")
    scaling.add_argument(
        "--step_time", type=float, metavar="S", help="seconds of a step on one GPU; assumed by default"
    )
    scaling.add_argument("--crops", type=int, metavar="N", default=3, help="crops of a step on one GPU (%(default)s)")
    scaling.add_argument(
        "--bandwidth", type=float, nargs="+", metavar="GB/s", help="between nodes; 25 and 3.125 by default"
    )
    scaling.add_argument("--gpus_per_node", type=int, metavar="N", default=8, help="GPUs of a node (%(default)s)")
    scaling.add_argument("--plot", type=Path, metavar="FILE", help="plot of the efficiencies to write, .svg or .png")
    options = parser.parse_args(arguments)
    if options.subject not in (*SUBJECTS, "all"):
        raise UnknownNameError("benchmark", options.subject, [*SUBJECTS, "all"])
    for name in ("repeats", "threads", "crops", "gpus_per_node"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} is {getattr(options, name)}; expected 1 or more")
    for name, values in {"step_time": [options.step_time], "bandwidth": options.bandwidth or []}.items():
        for value in values:
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"--{name} is {value}; expected a number above 0")
    if options.plot is not None and options.plot.suffix not in (".svg", ".png"):
        raise ConfigError(f"--plot is {options.plot}; expected a file that ends with .svg or .png")

    from experiments.benchmarks.report import describe_run, write_csv  # torch: not for --help

    for subject, what in SUBJECTS.items():
        if options.subject not in (subject, "all"):
            continue
        print(f"{subject}: {what} ...", flush=True)
        rows = _measure(subject, options)
        print(_format(subject, rows), end="\n\n", flush=True)
        if options.output is not None:
            write_csv(options.output, rows, describe_run(_command(subject, options)))
    if options.output is not None:
        print(f"rows: {options.output}")
    return 0


def _measure(subject: str, options: argparse.Namespace) -> list[Row]:
    if subject == "scaling":
        from experiments.benchmarks.scaling import BANDWIDTHS, NETWORKS, Scaling

        scaling = Scaling(
            [options.network] if options.network else NETWORKS,
            options.step_time,
            options.crops,
            options.bandwidth or BANDWIDTHS,
            options.gpus_per_node,
        )
        if options.plot is not None:
            scaling.plot(options.plot)
        return scaling.rows()
    # only the module of this subject: start-up is measured without Lightning in memory
    measure = getattr(import_module(f"experiments.benchmarks.{subject}"), f"measure_{subject}")
    others = {"ddp": (), "startup": (), "data": (options.cityscapes,), "predict": (options.threads, options.images)}
    arguments = others.get(subject, (options.threads,))
    rows: list[Row] = measure(options.repeats, *arguments)
    return rows


def _format(subject: str, rows: Sequence[Row]) -> str:
    from experiments.benchmarks.report import format_table

    if subject == "scaling":
        from experiments.benchmarks.scaling import format_scaling

        return format_scaling(rows)
    return format_table(rows, "efficiency" if subject == "ddp" else "hrseg is x")


def _command(subject: str, options: argparse.Namespace) -> str:
    """The command that gives these rows, without the user's paths, as the file may be published."""
    if subject == "scaling":
        given = {"network": options.network, "step_time": options.step_time, "crops": options.crops}
        given |= {"bandwidth": options.bandwidth, "gpus_per_node": options.gpus_per_node}
        if options.bandwidth:
            given["bandwidth"] = " ".join(f"{value:g}" for value in options.bandwidth)
        return " ".join([f"{COMMAND} scaling", *(f"--{k} {v}" for k, v in given.items() if v is not None)])
    command = f"{COMMAND} {subject} --repeats {options.repeats}"
    if subject == "ddp":
        return command  # one thread a rank
    command += f" --threads {options.threads}"
    command += " --cityscapes FOLDER" if subject == "data" and options.cityscapes else ""
    return command + (" --images FOLDER" if subject == "predict" and options.images else "")


if __name__ == "__main__":
    sys.exit(main())
