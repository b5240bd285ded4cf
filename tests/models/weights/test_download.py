"""Downloads from a local server that is slow, closes connections, stalls, or serves other content or no file."""

from __future__ import annotations

import hashlib
import logging
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from hrseg.errors import OutputError, WeightsError
from hrseg.models.weights import download
from hrseg.models.weights.download import fetch, import_file
from hrseg.models.weights.mirrors import Mirror

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Served:
    """How the server serves a file."""

    content: bytes = CONTENT
    cuts: list[int] = field(default_factory=list)  # bytes sent by the first responses before the connection is closed
    codes: list[int] = field(default_factory=list)  # status codes of the first responses
    stalls: bool = False  # instead of closing the connection
    length: bool = True  # whether the header has it
    gate: threading.Event | None = None  # awaited by each response
    requests: int = 0


class Server(ThreadingHTTPServer):
    files: dict[str, Served]
    closing: threading.Event

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up here on purpose."""

    def mirror(self, name: str, served: Served, sha256: str = "", size: int | None = None) -> Mirror:
        self.files[f"/{name}"] = served
        return Mirror(f"http://127.0.0.1:{self.server_address[1]}/{name}", sha256, size)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        served = self.server.files.get(self.path)
        if served is None:
            return self.send_error(404)
        served.requests += 1
        if served.gate is not None:
            served.gate.wait(30)
        if served.codes:
            return self.send_error(served.codes.pop(0))
        self.send_response(200)
        if served.length:
            self.send_header("Content-Length", str(len(served.content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(served.content[: served.cuts.pop(0)] if served.cuts else served.content)
        if served.stalls:
            self.server.closing.wait(30)
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files, server.closing = {}, threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        for served in server.files.values():
            if served.gate is not None:
                served.gate.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_a_file_and_its_hash(server: Server, tmp_path: Path) -> None:
    mirror = server.mirror("w.pth", Served(), DIGEST[:8], len(CONTENT))
    path = fetch([mirror], tmp_path / "weights" / "name")
    assert path == tmp_path / "weights" / "name" / "w.pth"
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == {"w.pth", "w.pth.sha256"}
    assert path.with_name("w.pth.sha256").read_text() == f"{DIGEST}  w.pth\n"
    assert fetch([mirror], path.parent) == path
    assert server.files["/w.pth"].requests == 1


def test_progress_on_a_terminal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    large = bytes((5 << 20) + 7)
    fetch([server.mirror("quiet.pth", Served(large))], tmp_path)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch([server.mirror("w.pth", Served(large))], tmp_path)
    output, errors = capsys.readouterr()
    assert output == ""
    assert "100%" in errors
    assert "5.24M/5.24M" in errors


def test_an_interrupted_download_is_retried(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = Served(cuts=[100_000, 50_000])
    with caplog.at_level(logging.INFO):
        assert fetch([server.mirror("w.pth", served)], tmp_path).read_bytes() == CONTENT
    assert served.requests == 3
    assert caplog.text.count("trying again") == 2
    lasting = Served(cuts=[100_000] * 9)
    with pytest.raises(WeightsError, match=r"v\.pth from http://127.*100000 bytes read, 200000 more expected"):
        fetch([server.mirror("v.pth", lasting)], tmp_path)
    assert lasting.requests == 1 + download.MAX_RETRIES
    assert names(tmp_path) == {"w.pth", "w.pth.sha256"}


def test_a_stalled_download_is_retried(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 1.0)
    served = Served(cuts=[70_000], stalls=True)
    assert fetch([server.mirror("w.pth", served, DIGEST)], tmp_path).read_bytes() == CONTENT
    assert served.requests == 2
    dead = Served(cuts=[0] * 9, stalls=True)
    with pytest.raises(WeightsError, match="timed out"):
        fetch([server.mirror("dead.pth", dead)], tmp_path)


def test_server_errors_are_retried(server: Server, tmp_path: Path) -> None:
    served = Served(codes=[503, 429])
    assert fetch([server.mirror("w.pth", served)], tmp_path).read_bytes() == CONTENT
    lasting = Served(codes=[500] * 9)
    with pytest.raises(WeightsError, match="HTTP 500 Internal Server Error"):
        fetch([server.mirror("v.pth", lasting)], tmp_path)
    assert lasting.requests == 1 + download.MAX_RETRIES


def test_mirrors_are_tried_in_turn(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = Mirror(f"http://127.0.0.1:{server.server_address[1]}/missing.pth")
    wrong = server.mirror("wrong.pth", Served(), "0123abcd")
    size = server.mirror("size.pth", Served(), DIGEST, len(CONTENT) + 1)
    page = server.mirror("page.pth", Served(b"<html>sign in</html>"))
    empty = server.mirror("empty.pth", Served(b""))
    nobody = Mirror("http://127.0.0.1:1/nobody.pth")
    bad = [missing, wrong, size, page, empty, nobody]
    good = server.mirror("w.pth", Served(), DIGEST)
    with caplog.at_level(logging.WARNING):
        assert fetch([*bad, good], tmp_path / "a") == tmp_path / "a" / "w.pth"
    assert f"downloaded {good}, after {missing} (HTTP 404 Not Found); {wrong} " in caplog.text
    assert names(tmp_path / "a") == {"w.pth", "w.pth.sha256"}

    with pytest.raises(WeightsError) as caught:
        fetch(bad, tmp_path / "b")
    message = str(caught.value)
    assert message.startswith("cannot download missing.pth from http://127.0.0.1")
    for text in (
        "(HTTP 404 Not Found)",
        f"(the downloaded file has a sha256 that starts with {DIGEST[:8]}; expected 0123abcd; download it again)",
        f"(the downloaded file has {len(CONTENT)} bytes; expected {len(CONTENT) + 1}; download it again)",
        "(the downloaded file is a web page, perhaps a login; download it again)",
        "(the downloaded file is empty; download it again)",
        "Connection refused",
    ):
        assert text in message
    assert "\n" not in message
    assert names(tmp_path / "b") == set()


def test_a_response_without_content_length(server: Server, tmp_path: Path) -> None:
    assert fetch([server.mirror("w.pth", Served(length=False), DIGEST)], tmp_path).read_bytes() == CONTENT


def test_a_full_disk_and_a_file_as_folder(server: Server, tmp_path: Path) -> None:
    mirror = server.mirror("w.pth", Served())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"w\.pth cannot be written: File too large; make room"):
            fetch([mirror], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == set()
    assert fetch([mirror], tmp_path).read_bytes() == CONTENT
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/name/w\.pth cannot be written"):
        fetch([mirror], tmp_path / "file" / "name")


SCRIPT = """
import sys
from pathlib import Path
from hrseg.models.weights.download import fetch
from hrseg.models.weights.mirrors import Mirror
print("ready", flush=True)
print(fetch([Mirror(sys.argv[1])], Path(sys.argv[2])))
"""


def start(mirror: Mirror, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, mirror.url, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("30 seconds went by")


def test_several_processes_fetch_a_file_once(server: Server, tmp_path: Path) -> None:
    served = Served(gate=threading.Event())
    assert served.gate is not None
    mirror = server.mirror("w.pth", served)
    processes = [start(mirror, tmp_path) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    wait_until(lambda: served.requests > 0)
    served.gate.set()
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert (output, errors, process.returncode) == (f"{tmp_path / 'w.pth'}\n", "", 0)
    assert served.requests == 1
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_a_killed_process_leaves_no_lock_and_no_half_file(server: Server, tmp_path: Path) -> None:
    served = Served(cuts=[100_000], stalls=True)
    mirror = server.mirror("w.pth", served)
    with start(mirror, tmp_path) as process:
        wait_until(lambda: any(path.stat().st_size for path in tmp_path.glob(".hrseg-*")))
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "w.pth").exists()
    served.stalls = False
    assert fetch([mirror], tmp_path).read_bytes() == CONTENT


def test_the_hub_is_one_of_the_mirrors(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Mirror("hf://timm/hrnet_w18.ms_in1k/model.safetensors")
    assert (hub.repository, hub.file) == ("timm/hrnet_w18.ms_in1k", "model.safetensors")
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: None)

    def hf_hub_download(repository: str, file: str) -> str:
        asked.append((repository, file))
        if len(asked) == 1:
            raise ConnectionError("no network\nreally none")
        return "/hub/model.safetensors"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    link = server.mirror("w.pth", Served())
    assert fetch([hub, link], tmp_path) == tmp_path / "w.pth"
    assert fetch([hub, link], tmp_path) == Path("/hub/model.safetensors")
    assert asked == [("timm/hrnet_w18.ms_in1k", "model.safetensors")] * 2


def test_without_a_network_the_hub_is_tried_once_and_the_reason_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def offline(url: str) -> None:
        asked.append(url)
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", offline)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *arguments: pytest.fail("the hub tries for long"))
    with pytest.raises(WeightsError, match=r"from the Hugging Face hub \(Name or service not known\)$"):
        fetch([Mirror("hf://timm/hrnet_w18.ms_in1k/model.safetensors")], tmp_path)
    (url,) = asked
    assert url.endswith("/timm/hrnet_w18.ms_in1k/resolve/main/model.safetensors")


def test_a_truncated_response_without_content_length_is_noticed(server: Server, tmp_path: Path) -> None:
    def whole(path: Path) -> None:
        assert path.suffix == ".pth"  # which decides how a file is opened
        if path.read_bytes() != CONTENT:
            raise WeightsError(f"{path} is too short")

    cut = server.mirror("cut.pth", Served(length=False, cuts=[100_000]))
    with pytest.raises(WeightsError, match=r"cut\.pth from http.* \(the downloaded file is too short\)$"):
        fetch([cut], tmp_path, whole)
    assert names(tmp_path) == set()
    assert fetch([cut, server.mirror("w.pth", Served())], tmp_path, whole).name == "cut.pth"  # second attempt


def test_nothing_is_left_of_a_file_with_a_wrong_hash(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected 0123abcd"):
        fetch([server.mirror("w.pth", Served(), "0123abcd")], tmp_path)
    assert names(tmp_path) == set()


def test_a_manually_downloaded_file(tmp_path: Path) -> None:
    source, folder = tmp_path / "Download (1).pth", tmp_path / "home"
    source.write_bytes(CONTENT)
    mirrors = [Mirror("https://somewhere/known.pth", DIGEST[:8]), Mirror("https://elsewhere/other.pth")]
    files = ["hand.pth", "known.pth", "other.pth"]
    assert import_file(source, files, mirrors, folder) == folder / "hand.pth"
    assert source.is_file()
    assert names(folder) == {"hand.pth", "hand.pth.sha256"}
    source = source.rename(tmp_path / "known.pth")
    assert import_file(source, files, mirrors, folder).read_bytes() == CONTENT
    source.write_bytes(b"damaged")
    with pytest.raises(
        WeightsError, match=rf"known\.pth has a sha256 that starts with .*; expected {DIGEST[:8]}; download it again"
    ):
        import_file(source, files, mirrors, folder)
    assert (folder / "known.pth").read_bytes() == CONTENT
    tensors = source.rename(tmp_path / "tensors.safetensors")
    with pytest.raises(
        WeightsError, match=r"tensors\.safetensors has another suffix than hand\.pth or known\.pth or other\.pth; give"
    ):
        import_file(tensors, files, mirrors, folder)
    tensors.write_bytes(CONTENT)
    assert import_file(tensors, [*files, "model.safetensors"], mirrors, folder).name == "model.safetensors"
    with pytest.raises(WeightsError, match=r"no file .*none\.pth"):
        import_file(tmp_path / "none.pth", files, mirrors, folder)


def test_a_file_inside_an_archive(tmp_path: Path) -> None:
    archive, folder = tmp_path / "drive.zip", tmp_path / "home"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("weights/readme.txt", "read me")
        packed.writestr("weights/w.pth", CONTENT)
    assert import_file(archive, ["w.pth"], [], folder).read_bytes() == CONTENT
    assert names(folder) == {"w.pth", "w.pth.sha256"}
    with pytest.raises(WeightsError, match=r"drive\.zip does not contain v\.pth or u\.pth; give the file itself"):
        import_file(archive, ["v.pth", "u.pth"], [], folder)
    assert names(folder) == {"w.pth", "w.pth.sha256"}


def test_a_file_inside_an_archive_is_called_by_its_name_there(tmp_path: Path) -> None:
    archive = tmp_path / "drive.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("w.pth", CONTENT)

    def refuse(path: Path) -> None:
        raise WeightsError(f"{path} is of something else")

    wrong = Mirror("https://somewhere/w.pth", "0123abcd")
    for mirrors, message in (([], "is of something else"), ([wrong], f"has a sha256 that starts with {DIGEST[:8]};")):
        with pytest.raises(WeightsError, match=rf"^w\.pth of .*drive\.zip {message}"):
            import_file(archive, ["w.pth"], mirrors, tmp_path / "home", refuse)
    assert names(tmp_path / "home") == set()
