"""Packages of optional features."""

from __future__ import annotations

from importlib.util import find_spec

from hrseg.errors import ConfigError


def require_packages(extra: str, *names: str) -> None:
    """Checks that the packages of an optional feature are installed.

    Args:
        extra: The extra of hrseg that installs them.
        names: The packages to import.

    Raises:
        ConfigError: One is missing.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        raise ConfigError(f"{' and '.join(missing)} cannot be imported; install with pip install 'hrseg[{extra}]'")
