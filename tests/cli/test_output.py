"""`hrseg ... | head`: a closed pipe ends a verb quietly, and a training after it has saved."""

from __future__ import annotations

import errno
import io
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrseg.cli import main
from hrseg.cli.output import RobustStream, robust_output
from hrseg.utils import signals


@pytest.fixture
def unread() -> Iterator[io.TextIOWrapper]:
    """A standard output that is a pipe whose reader is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = io.TextIOWrapper(io.FileIO(writing, "w"), write_through=True)
    yield stream
    stream.close()


@pytest.mark.parametrize("arguments", [["models"], ["weights", "list"], ["--help"], ["fit", "--help"]], ids=" ".join)
def test_a_verb_ends_quietly_where_nobody_reads(
    arguments: list[str], unread: io.TextIOWrapper, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", unread)  # not in the fixture: pytest sets it once more
    assert main(arguments) == 128 + signal.SIGPIPE
    assert sys.stdout is unread
    assert capfd.readouterr().err == ""


def test_a_training_saves_first(
    recipe: Path, unread: io.TextIOWrapper, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", unread)
    assert main(["fit", f"--config={recipe}", "--run_dir=run"]) == 128 + signal.SIGPIPE
    assert Path("run/checkpoints/last.ckpt").is_file()
    assert "Traceback" not in capfd.readouterr().err
    assert not list(Path("run").rglob(".*"))


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_training_runs_where_its_output_is_closed(name: str, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"sys.{name}", None)  # as Python has it after >&-
    assert main(["fit", f"--config={recipe}", "--run_dir=run"]) == 0
    assert main(["validate", "--ckpt_path=run/checkpoints/last.ckpt"]) == 0
    assert getattr(sys, name) is None


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_a_mistake_ends_alike_where_the_output_is_closed(redirection: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m hrseg models nonsense {redirection}"
    assert subprocess.run(command, shell=True, check=False, capture_output=True).returncode == 2


def test_the_shell_sees_no_complaint_at_the_end() -> None:
    hrseg = [sys.executable, "-m", "hrseg", "weights", "list"]
    process = subprocess.Popen(hrseg, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 128 + signal.SIGPIPE


@pytest.mark.parametrize(("code", "is_raised"), [(errno.EIO, False), (errno.ENOSPC, True)])
def test_a_closed_terminal_is_no_error_and_a_full_disk_is_one(code: int, is_raised: bool) -> None:
    class Refusing(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(code, os.strerror(code))

    if is_raised:
        with pytest.raises(OSError, match="No space left"):
            RobustStream(Refusing()).write("text")
    else:
        assert RobustStream(Refusing()).write("text") == 4


def test_forked_processes_drop_what_nobody_reads(unread: io.TextIOWrapper) -> None:
    stream = RobustStream(unread)
    worker = os.fork()
    if worker == 0:
        stream.write("text")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
    with pytest.raises(signals.Interrupted):
        stream.write("text")


def test_names_that_are_no_text_and_letters_that_the_terminal_lacks_are_spelled_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    with robust_output():
        print("caf\u00e9 \udcff")
    assert written.getvalue() == b"caf\\xe9 \\udcff\n"
