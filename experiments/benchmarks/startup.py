"""Start-up time of the command."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from experiments.benchmarks.interleaved import HRSEG, Row, time_interleaved

# as in the installed script `hrseg`
_COMMAND = "import sys; from hrseg.cli import main; sys.exit(main())"
# (what is run, limit in seconds)
STARTS = {
    "hrseg --help": ((_COMMAND, "--help"), 1.0),
    "hrseg models": ((_COMMAND, "models"), 4.0),
    'python -c "import hrseg"': (("import hrseg",), 0.15),
}


def measure_startup(repeats: int = 10) -> list[Row]:
    """Times whole processes, including the start of the interpreter.

    Args:
        repeats: Number of rounds.
    """
    sides = {name: lambda code=code: _run(code) for name, (code, _) in STARTS.items()}
    seconds = time_interleaved(sides, repeats)
    rows = []
    for name, (_, limit) in STARTS.items():
        value = median(seconds[name])
        rows.append(Row("startup", name, HRSEG, value, "s", target=f"< {limit} s", met=value < limit))
    return rows


def _run(code: tuple[str, ...]) -> None:
    subprocess.run([sys.executable, "-c", *code], check=True, capture_output=True)
