"""`make fuzz`: strange command lines and broken files for every verb, for a given time.

A case passes if `hrseg` ends with an exit code of its own and no traceback, within limits of time and memory. Each runs
in a process of its own, forked from one that has everything imported, in a copy of a folder that is made once.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import resource
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import torch

import hrseg.cli.lightning
import hrseg.inference
import hrseg.models.convert  # noqa: F401  # what the verbs import, once for all cases
from hrseg.cli import main as hrseg_main
from tests.fuzz.cases import CASES, CHECKPOINT, is_long
from tests.fuzz.place import FITTING, copy_of, make_data

_CPU_SECONDS = 40  # of a case; the machine may be busy with other things
_WALL_SECONDS = 200
_MEMORY = 6 * 2**30  # bytes, beside what is imported
_TRACEBACK = 99  # exit code of a case that raised
_LAST_LINES = 12


def run_case(seed: int, number: int, base: Path, keep: Path | None = None, tells: bool = False) -> str | None:
    """Runs one case.

    Args:
        seed: Of the whole run.
        number: Of the case in it; both decide what it is.
        base: The folder that `make_base` made.
        keep: Where the case's folder is to stay.
        tells: Whether to print how it ended.

    Returns:
        What is wrong: the case, and the last lines of what it printed. None if all is well.
    """
    rng = random.Random(f"{seed} {number}")
    folder = Path(tempfile.mkdtemp(prefix="hrseg-case-")) if keep is None else keep
    try:
        place = folder / "here"
        copy_of(base, place)
        case = rng.choice(CASES)
        arguments, done = case(rng, place)
        code = _limited(lambda: hrseg_main(arguments), place)
        said = (folder / "stderr").read_text(errors="replace")
        fault = _fault(code, said, is_long(arguments, done))
        typed = shlex.join(ascii(part)[1:-1][:200] for part in arguments)
        if tells:
            print(f"{number}: hrseg {typed[:300]} [{done[:100]}] -> {code} {said.strip().rpartition(chr(10))[2][:200]}")
        if fault is None:
            return None
        last = "\n    ".join(line[:300] for line in said.splitlines()[-_LAST_LINES:])
        return f"{case.__name__}: {done}\n    hrseg {typed}\n  {fault}\n    {last}"
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _fault(code: int, said: str, may_be_long: bool) -> str | None:
    if "Traceback (most recent call last)" in said or "panicked at" in said or code == _TRACEBACK:
        return "a traceback"
    if code < 0 and not (may_be_long and -code in (signal.SIGXCPU, signal.SIGALRM)):
        return f"ended by {signal.Signals(-code).name}"
    if code > 2 and not 128 < code < 160:
        return f"exit code {code}"
    told = [line for line in said.splitlines() if line.startswith("hrseg: ")]
    return f"exit code 2 with {len(told)} lines of what is wrong" if code == 2 and len(told) != 1 else None


def _limited(what: Callable[[], int], place: Path) -> int:
    """Runs a function in a process of its own and returns its exit code, or minus the signal that ended it."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        _child(what, place)
    deadline = time.monotonic() + _WALL_SECONDS
    while time.monotonic() < deadline:
        finished, status = os.waitpid(process, os.WNOHANG)
        if finished:
            _end_group(process)  # what it may have started and left
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    _end_group(process)
    os.waitpid(process, 0)
    return -signal.SIGALRM


def _end_group(process: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def _child(what: Callable[[], int], place: Path) -> None:
    os.setpgid(0, 0)
    os.chdir(place)
    (place / "home").mkdir(exist_ok=True)
    os.environ |= {
        "HOME": str(place / "home"),
        "HRSEG_HOME": str(place / "home"),
        "HF_HUB_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",
    }
    os.environ.pop("HRSEG_RUN_DIR", None)
    for descriptor, name in enumerate(("/dev/null", "../stdout", "../stderr")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115  # of this process alone
    faulthandler.enable(2)
    socket.socket.connect = _no_network  # type: ignore[method-assign,assignment]
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {"AS": now + _MEMORY, "CPU": _CPU_SECONDS, "CORE": 0, "FSIZE": 2**31}
    for name, limit in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))
    try:
        code = what()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = _TRACEBACK
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _no_network(*_: object) -> None:
    raise OSError(101, "Network is unreachable")


def make_base(folder: Path) -> Path:
    """Writes the data, trains for one step, and predicts."""
    base = folder / "base"
    base.mkdir()
    make_data(base)
    steps = [
        ["fit", "--config", "cityscapes.yaml", "--run_dir", "run", *FITTING, "--trainer.val_check_interval=1"],
        ["predict", "--ckpt_path", CHECKPOINT],
    ]
    for step in steps:
        if code := _limited(lambda step=step: hrseg_main(step), base):  # type: ignore[misc]
            raise SystemExit(f"hrseg {' '.join(step)} ended with {code}:\n{(folder / 'stderr').read_text()}")
    return base


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs cases until the time is over, or one alone, and says which fail."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.running", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", type=int, default=10**9, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one case, whose folder is kept")
    parser.add_argument("--all", action="store_true", help="say how every case ended")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # threads do not survive a fork
    cv2.setNumThreads(0)
    sys.argv = ["hrseg"]
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hrseg-fuzz-") as work:
        base = make_base(Path(work))
        if options.only is not None:
            keep = Path(tempfile.mkdtemp(prefix="hrseg-case-"))
            shutil.rmtree(keep)
            keep.mkdir()
            print(run_case(options.seed, options.only, base, keep) or "all is well", f"\n{keep}")
            return 0
        faults = 0
        number = 0
        while number < options.cases and time.monotonic() - start < options.seconds:
            if fault := run_case(options.seed, number, base, tells=options.all):
                faults += 1
                alone = f"python -m tests.fuzz.running --seed {options.seed} --only {number}"
                print(f"\ncase {number} of seed {options.seed}: {fault}\n  alone: {alone}", flush=True)
            number += 1
    print(f"\n{number} cases of seed {options.seed} in {time.monotonic() - start:.0f} s, {faults} of them with faults")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
