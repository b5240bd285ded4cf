"""`python -m experiments.benchmarks.gpu`: prediction and training on one GPU, within a time limit.

Every job is a process with a limit of its own: one that hangs or ends costs its own rows only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median

import torch

from experiments.benchmarks.gpu_worker import NCHW, TIMM, VARIANTS, Job, Report
from experiments.benchmarks.interleaved import HRSEG, Row, compare
from experiments.benchmarks.report import describe_run, format_table, write_csv
from experiments.benchmarks.train import PLAIN

COMMAND = "bash experiments/benchmarks/gpu.sh"
_ROOT = Path(__file__).parents[2]
_WORKER = "experiments.benchmarks.gpu_worker"
_LEAST_SECONDS = 15  # with less left, no job is begun

_OFFERED = (NCHW, TIMM, "no CUDA graph", "bf16 autocast", "bf16 autocast, no CUDA graph", "fp16 autocast")
_COMPILED = ("bf16 autocast, torch.compile",)
_OTHERS = tuple(name for name in VARIANTS if name not in (HRSEG, *_OFFERED, *_COMPILED))


def jobs() -> list[tuple[Job, float]]:
    """What is measured on a GPU, each with its limit in seconds, the most important first."""
    networks = ("hrnetv2_w18", "hrnetv2_w48")
    large, crop = (1024, 2048), (512, 1024)
    listed = [
        (Job("gpu predict", network, large, variants=(HRSEG, *variants)), 70.0)
        for variants, network in product((_OFFERED, _OTHERS), networks)
    ]
    listed += [
        (Job("gpu train", network, crop, 3, (HRSEG, PLAIN), precision), 50.0)
        for precision, network in product(("bf16", "fp32"), networks)
    ]
    listed += [(Job("gpu predict", network, large, variants=(HRSEG, *_COMPILED)), 90.0) for network in networks]
    return listed


def quick_jobs() -> list[tuple[Job, float]]:
    """The same on tiny images, without what compiles."""
    network, size = "hrnetv2_w18_small_v1", (64, 128)
    return [
        (Job("gpu predict", network, size, variants=(HRSEG, *_OFFERED, *_OTHERS), seconds=0.0), 60.0),
        (Job("gpu train", network, size, 2, (HRSEG, PLAIN), "bf16", seconds=0.0), 60.0),
    ]


def run_job(job: Job, limit: float) -> Report:
    """Runs a job in a process.

    Args:
        job: What to measure.
        limit: Seconds after which the process is killed.

    Returns:
        What it reported last, and under "all" in `failures` why it ended early, if it did.
    """
    command = [sys.executable, "-m", _WORKER, json.dumps(asdict(job))]
    with tempfile.TemporaryFile("w+") as answers:
        # a session of its own, as torch.compile starts further processes
        process = subprocess.Popen(command, stdout=answers, cwd=_ROOT, start_new_session=True)
        try:
            code = process.wait(limit)
            reason = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            reason = f"stopped after {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        answers.seek(0)
        reports = [line for line in answers if line.startswith('{"seconds"') and line.endswith("\n")]
    report = Report(**json.loads(reports[-1])) if reports else Report()
    if reason:
        report.failures["all"] = reason
    return report


def rows_of(job: Job, report: Report) -> list[Row]:
    """Makes the rows of times, memory and further numbers; ratios are relative to hrseg."""
    seconds = {name: values for name, values in report.seconds.items() if values}
    if HRSEG in seconds:
        rows = compare(job.subject, job.case, seconds, {})
    else:
        rows = [Row(job.subject, job.case, name, median(values), "s") for name, values in seconds.items()]
    ours = report.memory.get(HRSEG)
    for name, memory in report.memory.items():
        if memory:
            rows.append(Row(job.subject, f"{job.case}, memory", name, memory, "MiB", memory / ours if ours else None))
    for name, numbers in report.results.items():
        rows += [Row(job.subject, f"{job.case}, {what}", name, value, "") for what, value in numbers.items()]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the jobs one after the other, prints a table, and writes CSV rows after each.

    Returns:
        0, or 1 if something could not be measured.
    """
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure prediction and training on one GPU.")
    parser.add_argument("--minutes", type=float, default=8.5, help="limit of the whole (%(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="the CPU only shows that it runs")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to show that it runs")
    parser.add_argument("--commit", help="of a copy without .git")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="CSV",
        help="$OUT/benchmark_gpu.csv or else experiments/results/benchmark_gpu.csv",
    )
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when CUDA is first used, here and in the jobs
    if options.output is None and not options.quick:
        options.output = Path(os.environ.get("OUT") or _ROOT / "experiments" / "results") / "benchmark_gpu.csv"
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU was found; give --device cpu --quick to see that this runs", file=sys.stderr)
        return 1
    circumstances = describe_run(COMMAND + (" --quick" if options.quick else ""))
    circumstances["commit"] = options.commit or circumstances["commit"]
    print(", ".join(filter(None, circumstances.values())), flush=True)
    rows: list[Row] = []
    failures = 0
    for job, limit in quick_jobs() if options.quick else jobs():
        title = f"{job.subject}: {job.case}"
        left = end - time.monotonic()
        if left < _LEAST_SECONDS:
            print(f"{title}: no time left", flush=True)
            failures += 1
            continue
        print(f"{title} ...", flush=True)
        started = time.monotonic()
        report = run_job(job, min(limit, left))
        new = rows_of(job, report)
        rows += new
        print(f"{format_table(new)}\n{time.monotonic() - started:.0f} s", flush=True)
        for variant, reason in report.failures.items():
            print(f"FAILED {variant}: {reason}", flush=True)
        failures += len(report.failures)
        if options.output is not None and new:
            write_csv(options.output, [row for row in rows if row.subject == job.subject], circumstances)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
