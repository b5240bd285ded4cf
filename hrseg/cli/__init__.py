"""The command `hrseg`: finds the verb and runs it, importing only what that verb needs."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from hrseg import __version__
from hrseg.errors import ConfigError, HrsegError, OutputError, UnknownNameError

# verb: (module with a function `run(verb, arguments) -> exit code`, what it does)
VERBS = {
    "fit": ("hrseg.cli.lightning", "train a network"),
    "validate": ("hrseg.cli.lightning", "score a checkpoint on the validation split"),
    "test": ("hrseg.cli.lightning", "score a checkpoint by the data set's protocol: per-class table and files"),
    "predict": ("hrseg.cli.predict", "write label maps and overlays of a split, or of any images"),
    "prepare": ("hrseg.cli.prepare", "make the labels of a data set from what its makers ship"),
    "verify": ("hrseg.cli.verify", "check every file of a data set, count its classes"),
    "submit": ("hrseg.cli.submit", "pack predictions for a benchmark's server"),
    "models": ("hrseg.cli.models", "list the networks with parameters and multiply-adds"),
    "weights": ("hrseg.cli.weights", "list published weights, fetch them, check those that are here"),
    "benchmark": ("hrseg.cli.benchmark", "measure speed and memory on this machine"),
}

# what the system refuses because of its disks and permissions, wherever in a library that comes up
_REFUSALS = {getattr(errno, name) for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `hrseg` with the given arguments, or those of the process.

    Returns:
        0 when all went well, 1 when part of the input could not be used, 2 after a mistake of the user's, which is
        printed in one line, and 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
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
                raise ConfigError(f"{verb} stands before the verb; expected `hrseg VERB {verb} ...`")
            raise UnknownNameError("verb", verb, VERBS)
        return int(importlib.import_module(VERBS[verb][0]).run(verb, arguments[1:]))
    except KeyboardInterrupt:
        return 130
    except HrsegError as error:
        if trace:
            raise
        print(_one_line(error), file=sys.stderr)
        return 2
    except OSError as error:
        if trace or error.errno not in _REFUSALS:
            raise
        what = f"{os.fsdecode(error.filename or 'a file')} cannot be used: {error.strerror}"
        print(_one_line(OutputError(f"{what}; make room, or choose a place that can be written to")), file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hrseg",
        description="Semantic segmentation with the HRNet family on PyTorch Lightning.",
        epilog="`hrseg VERB --help` tells more of a verb. --trace, or HRSEG_TRACE=1, shows where an error arose.",
    )
    parser.add_argument("--version", action="version", version=f"hrseg {__version__}")
    verbs = parser.add_subparsers(metavar="VERB")
    for verb, (_, purpose) in VERBS.items():
        verbs.add_parser(verb, help=purpose, add_help=False)
    return parser


def _one_line(error: HrsegError) -> str:
    # an error from a worker process carries that process's traceback in front of its own last line
    text = str(error).strip().splitlines()[-1].removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
    line = f"hrseg: {text}"
    return f"\033[31m{line}\033[0m" if sys.stderr.isatty() else line
