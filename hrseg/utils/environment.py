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

# feature -> flags in /proc/cpuinfo; VNNI is for int8
_CPU_FEATURES = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx_vnni", "avx512_vnni"},
    "BF16": {"avx512_bf16", "amx_bf16"},
    "AMX": {"amx_tile"},
}


def describe_environment(packages: tuple[str, ...] = ("hrseg", "torch")) -> dict[str, str]:
    """Describes where a measurement is made: "date", "commit" of a clone, "versions" and "hardware".

    Args:
        packages: Distributions whose versions are listed, those that are installed.
    """
    cpuinfo = Path("/proc/cpuinfo")  # Linux
    fields = dict(re.findall(r"^(model name|flags)\s*: (.+)", cpuinfo.read_text() if cpuinfo.exists() else "", re.M))
    flags = set(fields.get("flags", "").split())
    features = [feature for feature, named in _CPU_FEATURES.items() if named & flags]
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
