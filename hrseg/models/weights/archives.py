"""Extraction of a single file from a zip or tar archive, without following paths and links in the archive."""

from __future__ import annotations

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import IO

from hrseg.errors import WeightsError
from hrseg.utils.files import writing

_MIB = 1 << 20
# raised on reading damaged archives
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError)


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of a zip or tar archive; .pth.tar is a common suffix of checkpoints.

    >>> is_archive(Path("weights.zip")), is_archive(Path("checkpoint.pth.tar"))
    (True, False)
    """
    return bool(re.search(r"(?<!\.pth)\.(zip|tar|tar\.gz|tgz)$", path.name, re.IGNORECASE))


def extract(archive: Path, names: Collection[str], folder: Path) -> Path:
    """Extracts the first regular file with one of the names, from any folder of the archive, to `folder / name`.

    Args:
        archive: A zip or tar archive under any name; the format is detected.
        names: File names without folders.
        folder: An existing folder; nothing is written elsewhere.

    Returns:
        The extracted file.

    Raises:
        WeightsError: The archive cannot be read, or contains none of the files.
        OutputError: The folder cannot be written to.
    """
    try:
        # a tar archive with a .pth file, which is a zip archive, at its end is taken for a zip archive
        if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    name, kind = PurePosixPath(info.filename).name, stat.S_IFMT(info.external_attr >> 16)
                    if name in names and kind in (0, stat.S_IFREG):
                        with zipped.open(info) as content:
                            return _write(content, folder / name)
        else:
            with tarfile.open(archive) as packed:
                for member in packed:
                    name = PurePosixPath(member.name).name
                    if name in names and (source := packed.extractfile(member) if member.isreg() else None):
                        path = _write(source, folder / name)
                        while packed.fileobj and packed.fileobj.read(_MIB):  # to the checksum of a .gz file
                            pass
                        return path
    except _DAMAGED as error:
        reason = str(error).split("\n")[0].rstrip(":")
        raise WeightsError(f"{archive} cannot be unpacked ({reason}); is it a complete zip or tar archive?") from error
    raise WeightsError(f"{archive} does not contain {' or '.join(names)}; give the file itself")


def _write(source: IO[bytes], path: Path) -> Path:
    with writing(path):
        file = path.open("wb")
    with file:
        while chunk := source.read(_MIB):
            with writing(path):
                file.write(chunk)
    return path
