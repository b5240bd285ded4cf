"""Packages of optional features."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from hrseg.errors import ConfigError


def require_packages(extra: str, *names: str) -> None:
    """Checks that the packages of an optional feature are installed.

    OpenVINO and NNCF are kept from sending statistics over the network.

    Args:
        extra: The extra of hrseg that installs them.
        names: The packages to import.

    Raises:
        ConfigError: One is missing.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        raise ConfigError(f"{' and '.join(missing)} cannot be imported; install with pip install 'hrseg[{extra}]'")
    if not {"openvino", "nncf"}.isdisjoint(names):
        _disable_telemetry()


def _disable_telemetry() -> None:
    """Makes openvino_telemetry look missing, which OpenVINO and NNCF allow for; without it, an import is an event."""
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    elif sender := sys.modules.get("openvino_telemetry.utils.sender"):  # loaded before by other code
        sender.TelemetrySender.send = lambda *args: None
