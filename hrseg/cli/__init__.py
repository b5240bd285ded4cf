"""The command `hrseg`: looks up a verb and runs it, importing only what the verb needs."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from hrseg import __version__
from hrseg.cli.output import robust_output
from hrseg.cli.working_directory import find_modules_here
from hrseg.errors import ConfigError, HrsegError, OutputError, UnknownNameError
from hrseg.utils import signals
from hrseg.utils.signals import Interrupted

# verb: (module with a function `run(verb, arguments) -> exit code`, what it does)
VERBS = {
    "fit": ("hrseg.cli.lightning", "train a network"),
    "validate": ("hrseg.cli.lightning", "score a checkpoint on the validation split"),
    "test": ("hrseg.cli.lightning", "score a checkpoint by the data set's protocol: per-class table and files"),
    "predict": ("hrseg.cli.predict", "write label maps and overlays of a split, or of any images"),
    "calibrate": ("hrseg.cli.calibrate", "make probabilities say how often a checkpoint's labels are right"),
    "prepare": ("hrseg.cli.prepare", "make the labels of a data set from what its makers ship"),
    "verify": ("hrseg.cli.verify", "check every file of a data set, count its classes"),
    "submit": ("hrseg.cli.submit", "pack predictions for a benchmark's server"),
    "models": ("hrseg.cli.models", "list the networks with parameters and multiply-adds"),
    "weights": ("hrseg.cli.weights", "list published weights, fetch them, check those that are here"),
    "export": ("hrseg.cli.export", "write a network as a file for ONNX Runtime, OpenVINO or PyTorch, certified"),
    "benchmark": ("hrseg.cli.benchmark", "measure speed and memory on this machine"),
}

# errors of disks, permissions and file names, wherever they are raised
_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG")}
REFUSALS = _FULL | {getattr(errno, name) for name in ("EACCES", "EPERM", "EROFS", "ENAMETOOLONG", "ENOTDIR", "EISDIR")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `hrseg` with the given arguments, or the process's own.

    Returns:
        0 on success, 1 if some input could not be used, 2 after a user error, which is reported in one line, and 128
        plus the number of a signal: 130 after Ctrl-C, 141 if the reader of the output is gone.
    """
    try:
        with robust_output():
            return _main(arguments)
    except Interrupted as stop:
        return 128 + stop.signal


def _main(arguments: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    find_modules_here()
    trace = os.environ.get("HRSEG_TRACE", "") not in ("", "0")
    if "--trace" in arguments:
        arguments.remove("--trace")
        trace = True
    try:
        verb = arguments[0] if arguments else "--help"
        if verb not in VERBS:
            if verb in ("-h", "--help", "--version"):
                _parser().parse_args([verb])  # ends the process
            if verb.startswith("-"):
                raise ConfigError(f"option {verb} before the verb; expected `hrseg VERB {verb} ...`")
            raise UnknownNameError("verb", verb, VERBS)
        # importing PyTorch takes seconds, in which SLURM's signals would otherwise end a training
        trains = verb == "fit" and not {"-h", "--help"} & set(arguments)
        with signals.watching(signals.FROM_OUTSIDE) if trains else signals.ending():
            return int(import_module(VERBS[verb][0]).run(verb, arguments[1:]))
    except KeyboardInterrupt:
        return 130
    except HrsegError as error:
        if trace:
            raise
        print(_message(error), file=sys.stderr)
        return 2
    except OSError as error:
        if trace or error.errno not in REFUSALS:
            raise
        what = f"{os.fsdecode(error.filename or 'a file')} cannot be used: {error.strerror}"
        remedy = "make room, or choose a place" if error.errno in _FULL else "choose a place"
        print(_message(OutputError(f"{what}; {remedy} that you may read and write")), file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hrseg",
        usage="hrseg [-h] [--version] VERB ...",
        description="Semantic segmentation with the HRNet family on PyTorch Lightning.",
        epilog="`hrseg VERB --help` lists its options. --trace, or HRSEG_TRACE=1, shows the traceback of an error.",
    )
    parser.add_argument("--version", action="version", version=f"hrseg {__version__}")
    # before Python 3.13 argparse forgets the verbs' indent when it aligns the columns; this name is wide enough
    verbs = parser.add_subparsers(title="verbs", metavar="VERB, one of")
    for verb, (_, purpose) in VERBS.items():
        verbs.add_parser(verb, help=purpose, add_help=False)
    return parser


def one_line(text: str) -> str:
    """Joins the lines of a message, and escapes control characters such as \\x1b."""
    line = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def _message(error: HrsegError) -> str:
    text = str(error)
    if text.startswith("Caught "):  # by a dataloader worker, whose traceback precedes the message
        text = text.rpartition(f"\n{type(error).__module__}.{type(error).__qualname__}: ")[2]
    line = f"hrseg: {one_line(text)}"
    return f"\033[31m{line}\033[0m" if sys.stderr.isatty() else line
