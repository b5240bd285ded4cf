"""The script beside an exported file."""

from __future__ import annotations

from pathlib import Path

from hrseg.utils.files import replacing


def write_script(runtime: str, folder: Path) -> Path:
    """Copies the script of a runtime, which takes any file for it, into a folder; it replaces an earlier one.

    Raises:
        OutputError: The folder cannot be written to.
    """
    script = Path(__file__).with_name("scripts") / f"predict_{runtime}.py"
    target = folder / script.name
    with replacing(target) as temporary:
        temporary.write_bytes(script.read_bytes())
    return target
