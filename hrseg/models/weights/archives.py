"""Zip and tar archives, unpacked without climbing out of their folder."""

from __future__ import annotations

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from hrseg.errors import WeightsError
from hrseg.utils.files import writing

_MIB = 1 << 20
# not .pth.tar, which is what training scripts call a checkpoint
_NAMES = re.compile(r"(?<!\.pth)\.(zip|tar|tar\.gz|tgz)$", re.IGNORECASE)
# what reading a damaged archive raises
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError)


def is_archive(path: Path) -> bool:
    """Whether a file is to be unpacked, by its name: a .pth file is a zip archive inside, and is not.

    >>> is_archive(Path("weights.zip")), is_archive(Path("checkpoint.pth.tar"))
    (True, False)
    """
    return bool(_NAMES.search(path.name))


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the plain files of a zip or tar archive; nothing is written outside `folder`.

    Args:
        archive: Told by its content, whatever its name is.
        folder: Made if it is missing.

    Raises:
        WeightsError: The archive cannot be read; or it holds links, devices, or names that lead out of the folder, and
            then nothing is unpacked.
        OutputError: The folder cannot be written to.
    """
    try:
        # a zip archive is told by its end; that of a tar archive may be a .pth file, which is one inside
        if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
            with zipfile.ZipFile(archive) as packed:
                _unpack_zip(packed, archive, folder)
        else:
            with tarfile.open(archive) as packed_tar:
                _unpack_tar(packed_tar, archive, folder)
    except _DAMAGED as error:
        reason = str(error).split("\n")[0].rstrip(":")
        raise WeightsError(f"{archive} cannot be unpacked ({reason}); is it a whole zip or tar archive?") from error


def _unpack_zip(packed: zipfile.ZipFile, archive: Path, folder: Path) -> None:
    members = [member for member in packed.infolist() if not member.is_dir()]
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        _require_plain(kind in (0, stat.S_IFREG), member.filename, archive)
    targets = [_target(folder, member.filename, archive) for member in members]
    for member, target in zip(members, targets, strict=True):
        with packed.open(member) as source:
            _write(source, target)


def _unpack_tar(packed: tarfile.TarFile, archive: Path, folder: Path) -> None:
    members = [member for member in packed.getmembers() if not member.isdir()]
    assert packed.fileobj is not None  # of an open one
    while packed.fileobj.read(_MIB):  # to the checksum of gzip, behind the end at which tarfile stops
        pass
    for member in members:
        _require_plain(member.isreg(), member.name, archive)
    targets = [_target(folder, member.name, archive) for member in members]
    for member, target in zip(members, targets, strict=True):
        source = packed.extractfile(member)
        assert source is not None  # of a plain file
        with source:
            _write(source, target)


def _require_plain(plain: bool, name: str, archive: Path) -> None:
    if not plain:
        raise WeightsError(f"{archive} holds {name!r}, which is no plain file; do not trust it")


def _target(folder: Path, name: str, archive: Path) -> Path:
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise WeightsError(f"{archive} holds {name!r}, which would be written outside {folder}; do not trust it")
    return target


def _write(source: IO[bytes], target: Path) -> None:
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("wb")
    with file:
        while chunk := source.read(_MIB):
            with writing(target):
                file.write(chunk)
