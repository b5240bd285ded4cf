"""`hrseg benchmark`: speed and memory of a network, or throughput of a dataloader, on this machine."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Sequence
from itertools import chain, product, repeat
from pathlib import Path

from hrseg.cli.benchmark_rows import Row, append_row, require_rows_or_nothing, show_rows
from hrseg.cli.option_parser import OptionParser, image_size
from hrseg.errors import ConfigError, UnknownNameError
from hrseg.models.catalog import MODELS
from hrseg.utils.progress import track_progress

# facts printed above the table if all rows share them
_SHARED = {
    "subject": "{}",
    "size": "images of {}",
    "batch_size": "batch size {}",
    "precision": "{}",
    "compile": "torch.compile",
    "device": "{}",
    "threads": "threads {}",
    "workers": "workers {}",
    "params_m": "{} million parameters",
    "gmacs": "{} billion multiply-adds per image",
}
_HEADINGS = {
    "size": "size",
    "batch_size": "batch\nsize",
    "precision": "precision",
    "gmacs": "GMACs\n/image",
    "latency_ms": "median\nms",
    "min_ms": "min\nms",
    "p90_ms": "p90\nms",
    "images_per_s": "images\n/s",
    "peak_gib": "peak\nGiB",
}
_COLUMNS = (*(_SHARED | _HEADINGS), "failure", "date", "commit", "versions", "hardware")  # of the CSV file


def run(verb: str, arguments: Sequence[str]) -> int:
    """Measures, prints a table, and appends rows to a CSV file if asked to."""
    if arguments[:1] == ["predict"]:
        from hrseg.cli import benchmark_predict  # numpy and OpenCV: not for --help

        return benchmark_predict.run(f"{verb} predict", arguments[1:])
    parser = OptionParser(
        prog=f"hrseg {verb}",
        usage="hrseg benchmark NETWORK | --ckpt_path FILE [options]\n"
        "       hrseg benchmark predict RUN|FILE... [options]\n"
        "       hrseg benchmark --loader --config RECIPE [--data.KEY VALUE] [--seconds S] [--output FILE]",
        description="Measure the forward pass of a network for each combination of --size, --batch_size and "
        "--precision, each in a new process, or the throughput of a recipe's training dataloader. OMP_NUM_THREADS "
        "sets the number of threads on the CPU. `hrseg fit` logs images/s and peak memory of training.",
        allow_abbrev=False,
    )
    parser.add_argument("--seconds", type=float, metavar="S", default=5.0, help="minimum time per row (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="CSV file to append rows to")
    parser.add_argument("--loader", action="store_true", help="measure the training dataloader of a recipe")
    if "--loader" in arguments and not {"-h", "--help"} & set(arguments):
        options, of_data = parser.parse_known_args(arguments)
    else:
        _add_network_options(parser)
        options = parser.parse_args(arguments)
        if (options.network is None) == (options.ckpt_path is None):
            raise ConfigError("expected either the name of a network or --ckpt_path")
        if options.network is not None and options.network not in MODELS:
            raise UnknownNameError("model", options.network, MODELS)
    if not 0 <= options.seconds <= 3600:
        raise ConfigError(f"--seconds is {options.seconds}; expected 0 to 3600")
    path = options.output
    if path is not None:
        require_rows_or_nothing(path, _COLUMNS)

    from hrseg.utils.environment import describe_environment  # torch: not for --help

    environment = describe_environment()
    *origin, hardware = filter(None, environment.values())
    print(f"{', '.join(origin)}\n{hardware}", flush=True)
    rows: list[Row] = []
    for row in _measure_loader(of_data, options.seconds) if options.loader else _measure_network(options):
        rows.append(row)
        if path is not None:
            append_row(path, _COLUMNS, {**row, **environment})
    show_rows(
        rows, _SHARED, _HEADINGS, lambda row: f"{row['size']}, batch size {row['batch_size']}, {row['precision']}"
    )
    return 1 if any(row.get("failure") for row in rows) else 0


def _add_network_options(parser: OptionParser) -> None:
    parser.add_argument("network", nargs="?", metavar="NETWORK", help="a name that `hrseg models '*'` lists")
    parser.add_argument("--ckpt_path", metavar="FILE", help="best.ckpt or last.ckpt of a run, instead of NETWORK")
    parser.add_argument("--trust", action="store_true", help="build a network of any class that the checkpoint names")
    parser.add_argument(
        "--size", nargs="+", type=image_size, metavar="HxW", default=[(512, 1024)], help="in pixels (512x1024)"
    )
    parser.add_argument("--batch_size", nargs="+", type=_count, metavar="N", default=[1], help="images per run (1)")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32"], help="(fp32)")
    parser.add_argument("--device", help="such as cuda:1 or cpu; the GPU by default, if there is one")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,4}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 99999")
    return int(text)


def _measure_network(options: argparse.Namespace) -> Iterator[Row]:
    from hrseg.inference.benchmark import Case, measure

    network, given = options.ckpt_path or options.network, options.ckpt_path is not None
    same = {"device": options.device, "compile": options.compile, "trust": options.trust, "seconds": options.seconds}
    settings = list(product(options.size, options.batch_size, options.precision))
    for size, batch_size, precision in track_progress(settings, "measuring", len(settings)):
        setting = {"size": f"{size[0]}x{size[1]}", "batch_size": batch_size, "precision": precision}
        measured = measure(Case(network, given, size, batch_size, precision, **same))
        yield {"subject": network, **setting, "compile": options.compile, **measured}


def _measure_loader(arguments: Sequence[str], seconds: float) -> Iterator[Row]:
    """Counts the images that the dataloader delivers."""
    from hrseg.cli.data_options import parse_data  # Lightning

    data = parse_data(arguments)
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    batches = chain.from_iterable(repeat(loader))  # epoch after epoch
    try:
        for _ in range(1 + loader.num_workers * (loader.prefetch_factor or 0)):  # those prefetched during start-up
            next(batches)
        images, elapsed, start = 0, 0.0, time.perf_counter()
        while images == 0 or elapsed < seconds:
            images += len(next(batches)["image"])
            elapsed = time.perf_counter() - start
    finally:
        loader.end_workers()
    subject, size = f"dataloader of {data.labels.name}", f"{data.crop_size[0]}x{data.crop_size[1]}"
    setting = {"size": size, "batch_size": data.batch_size, "workers": loader.num_workers}
    yield {"subject": subject, **setting, "images_per_s": images / elapsed}
