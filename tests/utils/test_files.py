from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hrseg.errors import OutputError
from hrseg.utils.files import TEMPORARY, remove_stale, replacing, require_writable


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def half_a_file() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"file.txt cannot be written: No space left on device; make room, or"):
        half_a_file()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    path = tmp_path / "folder" / "file.txt"
    with pytest.raises(OutputError, match=r"folder.file.txt cannot be written: "), replacing(path):
        pass


def test_writers_with_the_same_pid_do_not_conflict(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with replacing(path) as first, replacing(path) as second:  # as on two machines, whose numbers may be equal
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_killed_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    folder = tmp_path / "weights" / "name"
    with replacing(folder / "new.pth") as new:
        old, unpacked, other = folder / f"{TEMPORARY}0.pth", folder / f"{TEMPORARY}folder", folder / ".w.pth.part"
        unpacked.mkdir()
        for file in (new, old, unpacked / "w.pth", other, folder / "w.pth"):
            file.write_bytes(b"weights")
        for path in (old, unpacked, other, folder / "w.pth"):
            os.utime(path, (time.time() - 100_000,) * 2)
        remove_stale(tmp_path)
        assert set(folder.iterdir()) == {new, other, folder / "w.pth"}
    remove_stale(tmp_path / "missing")


def test_a_device_or_a_folder_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, Path("/"), Path("")):
        with pytest.raises(OutputError, match="expected the name of a file"), replacing(place):
            pass
    assert (tmp_path / "pipe").is_fifo()


def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    with replacing(path) as temporary:
        assert temporary.suffix == ".png"
        temporary.touch()
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_killed_process_are_removed_by_the_next_writer(tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:
        with replacing(tmp_path / "file.txt") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    (left,) = tmp_path.iterdir()
    alive = left.with_name(left.name.replace(f"-{process}-", f"-{os.getpid()}-"))
    other_machine = left.with_name(f"{TEMPORARY}{8 * 'z'}-{process}-0.file.txt")
    for path in (alive, other_machine):
        path.touch()
    with replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("whole")
    assert set(tmp_path.iterdir()) == {alive, other_machine, tmp_path / "file.txt"}


@pytest.mark.parametrize("write", [require_writable, lambda path: replacing(path / "a").__enter__()])
def test_a_path_of_a_thousand_folders_is_refused(write: Callable[[Path], None], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: it is nested in more than 200 folders"):
        write(tmp_path / ("a/" * 1000))


def test_a_full_disk_is_reported_before_any_work(tmp_path: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most[1]))  # empty files can be made, as on a full disk
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large; make room"):
            require_writable(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
