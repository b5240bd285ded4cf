"""Extraction from archives that are damaged, or that hold links, devices and paths outside the folder."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hrseg.errors import OutputError, WeightsError
from hrseg.models.weights.archives import extract, is_archive

CONTENT = np.random.default_rng(0).bytes(300_000)


def test_what_is_an_archive() -> None:
    assert all(is_archive(Path(name)) for name in ("a.zip", "a.ZIP", "a.tar", "a.tar.gz", "a.b.tgz"))
    assert not any(is_archive(Path(name)) for name in ("a.pth", "a.pth.tar", "a.safetensors", "zip", "a.pdparams"))


def make_zip(path: Path, name: str, mode: int = 0) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("inside.txt", "inside")
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        packed.writestr(member, "../target")


def make_tar(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(path, "w:gz") as packed:
        for member_name, member_kind in (("inside.txt", tarfile.REGTYPE), (name, kind)):
            member = tarfile.TarInfo(member_name)
            member.type, member.linkname = member_kind, "../target"
            member.size = 6 if member_kind == tarfile.REGTYPE else 0
            packed.addfile(member, io.BytesIO(b"inside"))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_file_is_found_in_any_folder(tmp_path: Path, make: Callable[[Path, str], None]) -> None:
    make(tmp_path / "archive", "folder/sub/../file.txt")
    for name in ("file.txt", "inside.txt"):
        assert extract(tmp_path / "archive", [name], tmp_path) == tmp_path / name
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "file.txt", "inside.txt"}
    assert (tmp_path / "inside.txt").read_text() == "inside"
    with pytest.raises(WeightsError, match=r"archive does not contain a\.txt or b\.txt; give the file itself"):
        extract(tmp_path / "archive", ["a.txt", "b.txt"], tmp_path)


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["../climber", "a/../../climber", "/tmp/hrseg_climber", "link/climber"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, make: Callable[[Path, str], None], name: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    make(tmp_path / "archive", name)
    path = extract(tmp_path / "archive", ["climber", "hrseg_climber"], folder)
    assert path == folder / Path(name).name
    assert {file.name for file in folder.iterdir()} == {"link", path.name}
    assert {file.name for file in tmp_path.iterdir()} == {"archive", "out"}
    assert not Path("/tmp/hrseg_climber").exists()


def test_links_and_devices_are_skipped(tmp_path: Path) -> None:
    make_zip(tmp_path / "links", "link", stat.S_IFLNK | 0o777)
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
        make_tar(tmp_path / f"links{number}", "link", kind)
    archives = sorted(tmp_path.glob("links*"))
    for archive in archives:
        with pytest.raises(WeightsError, match="does not contain link; give"):
            extract(archive, ["link"], tmp_path)
    assert sorted(tmp_path.iterdir()) == archives


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_damaged_archives(tmp_path: Path, make: Callable[[Path, str], None]) -> None:
    archive = tmp_path / "archive"
    make(archive, "file.txt")
    whole = archive.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no archive", b""):
        archive.write_bytes(damaged)
        with pytest.raises(
            WeightsError, match=r"archive cannot be unpacked \(.*\); is it a complete zip or tar archive"
        ):
            extract(archive, ["file.txt", "w.pth"], tmp_path)


def test_the_output_of_an_archive_cannot_be_written(tmp_path: Path) -> None:
    make_zip(tmp_path / "archive", "file.txt")
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        extract(tmp_path / "archive", ["file.txt"], tmp_path / "out")


def test_a_tar_archive_with_a_zip_archive_at_its_end(tmp_path: Path) -> None:
    make_zip(tmp_path / "w.pth", "data.pkl")  # like torch's files
    with tarfile.open(tmp_path / "archive", "w") as packed:
        packed.add(tmp_path / "w.pth", "w.pth")
    (tmp_path / "out").mkdir()
    assert extract(tmp_path / "archive", ["w.pth"], tmp_path / "out") == tmp_path / "out" / "w.pth"
    assert (tmp_path / "out" / "w.pth").read_bytes() == (tmp_path / "w.pth").read_bytes()


def test_a_changed_byte_in_a_compressed_tar_archive(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as packed:  # stored, so that the content changes
        member = tarfile.TarInfo("w.pth")
        member.size = len(CONTENT)
        packed.addfile(member, io.BytesIO(CONTENT))
    damaged = bytearray(archive.read_bytes())
    damaged[150_000] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(WeightsError, match=r"archive\.tar\.gz cannot be unpacked \(CRC check failed"):
        extract(archive, ["file.txt", "w.pth"], tmp_path)


def test_damaged_lzma_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("w.pth", CONTENT)
    with tarfile.open(tmp_path / "xz.tar", "w:xz") as packed_tar:
        member = tarfile.TarInfo("w.pth")
        member.size = len(CONTENT)
        packed_tar.addfile(member, io.BytesIO(CONTENT))
    for archive in (tmp_path / "lzma.zip", tmp_path / "xz.tar"):
        damaged = bytearray(archive.read_bytes())
        damaged[60:100] = bytes(40)
        damaged[150_000:150_100] = bytes(100)
        archive.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"cannot be unpacked \(.*\); is it a complete zip or tar archive"):
            extract(archive, ["file.txt", "w.pth"], tmp_path)
