"""Where a measurement is made: commit, versions and hardware."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_CPU_FEATURES = {"avx2": "AVX2", "avx512f": "AVX-512", "amx_tile": "AMX"}  # by flag in /proc/cpuinfo


def describe_environment(packages: tuple[str, ...] = ("hrseg", "torch")) -> dict[str, str]:
    """Describes where a measurement is made: "date", "commit" of a clone, "versions" and "hardware".

    Args:
        packages: Distributions whose versions are listed, those that are installed.
    """
    cpuinfo = Path("/proc/cpuinfo")  # Linux
    fields = dict(re.findall(r"^(model name|flags)\s*: (.+)", cpuinfo.read_text() if cpuinfo.exists() else "", re.M))
    features = [feature for flag, feature in _CPU_FEATURES.items() if flag in fields.get("flags", "").split()]
    hardware = [f"{os.cpu_count()} cores", fields.get("model name", platform.machine()), *features]
    if torch.cuda.is_available():
        hardware.append(torch.cuda.get_device_name())
    versions = [f"python {platform.python_version()}"]
    for name in packages:
        with suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "versions": ", ".join(versions),
        "hardware": ", ".join(hardware),
    }


def _commit() -> str:
    """The commit of the clone that hrseg is imported from; empty where it was installed from a release."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        # an environment may lie inside the clone of something else
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        return subprocess.check_output([*git, "describe", "--always", "--dirty"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
