"""Downloads from a small server that is slow, cuts off, stalls, lies, or lacks the file; and archives that climb."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import resource
import signal
import stat
import subprocess
import sys
import tarfile
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
from hrseg.models.weights.archives import is_archive, unpack
from hrseg.models.weights.download import Mirror, adopt, check, fetch, sha256_of

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Served:
    """How the server gives one file."""

    content: bytes = CONTENT
    cuts: list[int] = field(default_factory=list)  # bytes sent by the first answers, before the connection breaks
    codes: list[int] = field(default_factory=list)  # of the first answers
    stalls: bool = False  # instead of being cut
    etag: str = '"1"'
    modified: str = ""
    ranges: bool = True
    ignores_if_range: bool = False
    begins_early: int = 0  # bytes before the range that was asked for
    length: bool = True
    kind: str = "application/octet-stream"
    gate: threading.Event | None = None  # what each answer waits for
    asked: list[str] = field(default_factory=list)  # the ranges that were asked for


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
        served.asked.append(self.headers.get("Range", ""))
        if served.gate is not None:
            served.gate.wait(30)
        if served.codes:
            return self.send_error(served.codes.pop(0))
        found = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found and served.ranges else 0
        tag = self.headers.get("If-Range", "")
        if (tag.startswith("W/") or tag not in (served.etag, served.modified)) and not served.ignores_if_range:
            start = 0
        if start > len(served.content):
            return self.send_error(416)
        start = max(start - served.begins_early, 0)
        body = served.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", served.kind)
        for name, value in (("ETag", served.etag), ("Last-Modified", served.modified)):
            if value:
                self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
        if served.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: served.cuts.pop(0)] if served.cuts else body)
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
    assert len(server.files["/w.pth"].asked) == 1


def test_progress_is_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def track(steps: Iterator[None], what: str, total: int) -> Iterator[None]:
        told.append((what, total, len(list(steps))))
        return iter(())

    monkeypatch.setattr(download, "track_progress", track)
    fetch([server.mirror("w.pth", Served(bytes((5 << 20) + 7)))], tmp_path)
    assert told == [("fetching w.pth, MiB", 5, 5)]


def test_a_cut_connection_is_taken_up_where_it_was(server: Server, tmp_path: Path) -> None:
    served = Served(cuts=[100_000, 50_000, 1])
    assert fetch([server.mirror("w.pth", served, DIGEST)], tmp_path).read_bytes() == CONTENT
    assert served.asked == ["", "bytes=100000-", "bytes=150000-", "bytes=150001-"]


def test_a_later_process_goes_on(server: Server, tmp_path: Path) -> None:
    served = Served(cuts=[100_000, 0, 0, 0])
    mirror = server.mirror("w.pth", served)
    with pytest.raises(WeightsError, match=r"w\.pth from http://127.*the connection was cut"):
        fetch([mirror], tmp_path)
    assert names(tmp_path) == {".w.pth.part", ".w.pth.part.tag"}
    served.asked.clear()
    assert fetch([mirror], tmp_path).read_bytes() == CONTENT
    assert served.asked == ["bytes=100000-"]
    assert names(tmp_path) == {"w.pth", "w.pth.sha256"}


@pytest.mark.parametrize(
    "changed",
    [
        Served(etag='"2"'),
        Served(etag='"2"', ignores_if_range=True),
        Served(ranges=False),
        Served(CONTENT[::-1], begins_early=7),
        Served(CONTENT[::-1][:50_000], etag='"2"', ignores_if_range=True),
    ],
    ids=["another version", "If-Range ignored", "no ranges", "another range", "a shorter version, If-Range ignored"],
)
def test_two_versions_are_never_mixed(server: Server, tmp_path: Path, changed: Served) -> None:
    first = server.mirror("w.pth", Served(CONTENT[::-1], cuts=[100_000, 0, 0, 0]))
    with pytest.raises(WeightsError):
        fetch([first], tmp_path)
    assert fetch([server.mirror("w.pth", changed)], tmp_path).read_bytes() == changed.content
    assert changed.asked in (["bytes=100000-"], ["bytes=100000-", ""])


def test_without_a_version_a_download_starts_anew(server: Server, tmp_path: Path) -> None:
    served = Served(cuts=[100_000], etag="")
    assert fetch([server.mirror("w.pth", served)], tmp_path).read_bytes() == CONTENT
    assert served.asked == ["", ""]
    weak = Served(cuts=[100_000, 10], etag='W/"1"', modified="Wed, 01 Jan 2020 00:00:00 GMT")
    assert fetch([server.mirror("weak.pth", weak)], tmp_path).read_bytes() == CONTENT
    assert weak.asked == ["", "bytes=100000-", "bytes=100010-"]


def test_a_server_that_stalls_is_asked_again(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SECONDS_WITHOUT_DATA", 1.0)
    served = Served(cuts=[70_000, 60_000], stalls=True)
    assert fetch([server.mirror("w.pth", served, DIGEST)], tmp_path).read_bytes() == CONTENT
    assert served.asked == ["", "bytes=70000-", "bytes=130000-"]
    dead = Served(cuts=[0, 0, 0], stalls=True)
    with pytest.raises(WeightsError, match="timed out"):
        fetch([server.mirror("dead.pth", dead)], tmp_path)
    assert len(dead.asked) == download.FRUITLESS_TRIES


def test_passing_troubles_of_a_server(server: Server, tmp_path: Path) -> None:
    served = Served(codes=[503, 429])
    assert fetch([server.mirror("w.pth", served)], tmp_path).read_bytes() == CONTENT
    lasting = Served(codes=[500] * 9)
    with pytest.raises(WeightsError, match="HTTP 500 Internal Server Error"):
        fetch([server.mirror("v.pth", lasting)], tmp_path)
    assert len(lasting.asked) == download.FRUITLESS_TRIES


def test_mirrors_are_tried_in_turn(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = Mirror(f"http://127.0.0.1:{server.server_address[1]}/missing.pth")
    wrong = server.mirror("wrong.pth", Served(), "0123abcd")
    size = server.mirror("size.pth", Served(), DIGEST, len(CONTENT) + 1)
    page = server.mirror("page.pth", Served(b"<html>sign in</html>", kind="text/html; charset=utf-8"))
    empty = server.mirror("empty.pth", Served(b""))
    nobody = Mirror("http://127.0.0.1:1/nobody.pth")
    bad = [missing, wrong, size, page, empty, nobody]
    good = server.mirror("w.pth", Served(), DIGEST)
    with caplog.at_level(logging.WARNING):
        assert fetch([*bad, good], tmp_path / "a") == tmp_path / "a" / "w.pth"
    assert f"took {good}, for want of {missing} (HTTP 404 Not Found); {wrong} " in caplog.text
    assert names(tmp_path / "a") == {"w.pth", "w.pth.sha256"}

    with pytest.raises(WeightsError) as caught:
        fetch(bad, tmp_path / "b")
    message = str(caught.value)
    assert message.startswith("cannot fetch missing.pth from http://127.0.0.1")
    for text in (
        "(HTTP 404 Not Found)",
        f"(what came has a sha256 that starts with {DIGEST[:8]}; expected 0123abcd)",
        f"(what came has {len(CONTENT)} bytes; expected {len(CONTENT) + 1})",
        "(a web page came instead of the file)",
        "(what came is empty)",
        "Connection refused",
    ):
        assert text in message
    assert "\n" not in message
    assert names(tmp_path / "b") == set()


def test_a_file_whose_length_is_not_told(server: Server, tmp_path: Path) -> None:
    assert fetch([server.mirror("w.pth", Served(length=False), DIGEST)], tmp_path).read_bytes() == CONTENT


def test_the_part_is_longer_than_the_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".w.pth.part").write_bytes(bytes(len(CONTENT) + 1))
    (tmp_path / ".w.pth.part.tag").write_text('"1"')
    served = Served()
    assert fetch([server.mirror("w.pth", served)], tmp_path).read_bytes() == CONTENT
    assert served.asked == [f"bytes={len(CONTENT) + 1}-", ""]


def test_a_full_disk_and_a_place_that_is_no_folder(server: Server, tmp_path: Path) -> None:
    mirror = server.mirror("w.pth", Served())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"\.w\.pth\.part cannot be written: File too large; make room"):
            fetch([mirror], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "w.pth" not in names(tmp_path)
    assert fetch([mirror], tmp_path).read_bytes() == CONTENT
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/name cannot be written"):
        fetch([mirror], tmp_path / "file" / "name")


SCRIPT = """
import sys
from pathlib import Path
from hrseg.models.weights.download import Mirror, fetch
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
    wait_until(lambda: bool(served.asked))
    served.gate.set()
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert (output, errors, process.returncode) == (f"{tmp_path / 'w.pth'}\n", "", 0)
    assert served.asked == [""]
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_a_killed_process_leaves_what_it_had_and_no_lock(server: Server, tmp_path: Path) -> None:
    served = Served(cuts=[100_000], stalls=True)
    mirror, part = server.mirror("w.pth", served), tmp_path / ".w.pth.part"
    with start(mirror, tmp_path) as process:
        wait_until(lambda: part.is_file() and part.stat().st_size == 100_000)
        process.send_signal(signal.SIGKILL)
    served.stalls = False
    assert fetch([mirror], tmp_path).read_bytes() == CONTENT
    assert served.asked == ["", "bytes=100000-"]


def test_the_hub_is_a_place_among_others(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_without_a_network_the_hub_is_asked_once_and_the_reason_is_told(
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


def test_half_a_file_whose_length_is_not_told_is_examined(server: Server, tmp_path: Path) -> None:
    def whole(path: Path) -> None:
        assert path.suffix == ".pth"  # by which a file is opened
        if path.read_bytes() != CONTENT:
            raise WeightsError(f"{path} is too short")

    cut = server.mirror("cut.pth", Served(length=False, cuts=[100_000]))
    with pytest.raises(WeightsError, match=r"cut\.pth from http.* \(what came is too short\)$"):
        fetch([cut], tmp_path, whole)
    assert names(tmp_path) == set()
    assert fetch([cut, server.mirror("w.pth", Served())], tmp_path, whole).name == "cut.pth"  # the second time whole


def test_nothing_is_left_of_a_file_with_a_wrong_hash(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected 0123abcd"):
        fetch([server.mirror("w.pth", Served(), "0123abcd")], tmp_path)
    assert names(tmp_path) == set()


def test_checks(server: Server, tmp_path: Path) -> None:
    known, unknown = server.mirror("w.pth", Served(), DIGEST[:8]), server.mirror("v.pth", Served())
    path, other = fetch([known], tmp_path), fetch([unknown], tmp_path)
    assert check(path, known) == (True, "has the published hash")
    assert check(other, unknown) == (True, "is as it was fetched")
    by_hand = tmp_path / "by_hand.pth"
    by_hand.write_bytes(CONTENT)
    assert check(by_hand, unknown) == (True, f"is a file of which no hash is known; its sha256 is {DIGEST}")

    damaged = bytearray(CONTENT)
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    other.write_bytes(damaged)
    digest = hashlib.sha256(damaged).hexdigest()
    assert check(path, known) == (False, f"has a sha256 that starts with {digest[:8]}; expected {DIGEST[:8]}")
    assert check(other, unknown) == (False, f"has sha256 {digest}; it was {DIGEST} when the file was fetched")
    other.write_bytes(b"")
    assert check(other, unknown) == (False, "is empty")
    with pytest.raises(WeightsError, match=r"gone\.pth cannot be read: No such file"):
        check(tmp_path / "gone.pth", unknown)


def test_files_of_the_hub_are_checked_by_their_name(tmp_path: Path) -> None:
    blob, link = tmp_path / "blobs" / DIGEST, tmp_path / "snapshots" / "model.safetensors"
    for folder in (blob.parent, link.parent):
        folder.mkdir()
    link.symlink_to(blob)
    mirror = Mirror("hf://a/b/model.safetensors")
    blob.write_bytes(CONTENT)
    assert check(link, mirror) == (True, "is as it was fetched")
    blob.write_bytes(CONTENT[:-1])
    assert check(link, mirror)[0] is False


def test_hash(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2, B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == digest


def test_a_file_that_was_fetched_by_hand(tmp_path: Path) -> None:
    source, folder = tmp_path / "Download (1).pth", tmp_path / "home"
    source.write_bytes(CONTENT)
    mirrors = [Mirror("https://somewhere/known.pth", DIGEST[:8]), Mirror("https://elsewhere/other.pth")]
    files = ["hand.pth", "known.pth", "other.pth"]
    assert adopt(source, files, mirrors, folder) == folder / "hand.pth"
    assert source.is_file()
    assert names(folder) == {"hand.pth", "hand.pth.sha256"}
    source = source.rename(tmp_path / "known.pth")
    assert adopt(source, files, mirrors, folder).read_bytes() == CONTENT
    source.write_bytes(b"damaged")
    with pytest.raises(
        WeightsError, match=rf"known\.pth has a sha256 that starts with .*; expected {DIGEST[:8]}; fetch"
    ):
        adopt(source, files, mirrors, folder)
    assert (folder / "known.pth").read_bytes() == CONTENT
    tensors = source.rename(tmp_path / "tensors.safetensors")
    with pytest.raises(
        WeightsError, match=r"tensors\.safetensors is not hand\.pth or known\.pth or other\.pth, by its ending; give"
    ):
        adopt(tensors, files, mirrors, folder)
    tensors.write_bytes(CONTENT)
    assert adopt(tensors, [*files, "model.safetensors"], mirrors, folder).name == "model.safetensors"
    with pytest.raises(WeightsError, match=r"no file .*none\.pth"):
        adopt(tmp_path / "none.pth", files, mirrors, folder)


def test_a_file_inside_an_archive(tmp_path: Path) -> None:
    archive, folder = tmp_path / "drive.zip", tmp_path / "home"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("weights/readme.txt", "read me")
        packed.writestr("weights/w.pth", CONTENT)
    assert adopt(archive, ["w.pth"], [], folder).read_bytes() == CONTENT
    assert names(folder) == {"w.pth", "w.pth.sha256"}
    with pytest.raises(WeightsError, match=r"drive\.zip does not hold v\.pth or u\.pth; give the file itself"):
        adopt(archive, ["v.pth", "u.pth"], [], folder)
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
            adopt(archive, ["w.pth"], mirrors, tmp_path / "home", refuse)
    assert names(tmp_path / "home") == set()


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
def test_archives_are_unpacked(tmp_path: Path, make: Callable[[Path, str], None]) -> None:
    make(tmp_path / "archive", "folder/sub/../file.txt")
    unpack(tmp_path / "archive", tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"inside.txt", "folder/file.txt"}
    assert (tmp_path / "out" / "inside.txt").read_text() == "inside"


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["../climber", "a/../../climber", "/tmp/hrseg_climber", "link/climber"])
def test_nothing_climbs_out(tmp_path: Path, make: Callable[[Path, str], None], name: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    make(tmp_path / "archive", name)
    with pytest.raises(WeightsError, match=rf"archive holds '{name}', which would be written outside .*out; do not"):
        unpack(tmp_path / "archive", folder)
    assert not list(tmp_path.rglob("*climber"))
    assert not Path("/tmp/hrseg_climber").exists()
    assert names(folder) == {"link"}


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    make_zip(tmp_path / "links", "link", stat.S_IFLNK | 0o777)
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
        make_tar(tmp_path / f"links{number}", "link", kind)
    for archive in tmp_path.glob("links*"):
        with pytest.raises(WeightsError, match="holds 'link', which is no plain file"):
            unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_damaged_archives(tmp_path: Path, make: Callable[[Path, str], None]) -> None:
    archive = tmp_path / "archive"
    make(archive, "file.txt")
    whole = archive.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no archive", b""):
        archive.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"archive cannot be unpacked \(.*\); is it a whole zip or tar archive"):
            unpack(archive, tmp_path / "out")


def test_the_output_of_an_archive_cannot_be_written(tmp_path: Path) -> None:
    make_zip(tmp_path / "archive", "file.txt")
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        unpack(tmp_path / "archive", tmp_path / "out" / "folder")


def test_a_tar_archive_with_a_zip_archive_at_its_end(tmp_path: Path) -> None:
    make_zip(tmp_path / "w.pth", "data.pkl")  # what torch writes
    with tarfile.open(tmp_path / "archive", "w") as packed:
        packed.add(tmp_path / "w.pth", "w.pth")
    unpack(tmp_path / "archive", tmp_path / "out")
    assert names(tmp_path / "out") == {"w.pth"}
    assert (tmp_path / "out" / "w.pth").read_bytes() == (tmp_path / "w.pth").read_bytes()


def test_a_byte_changed_in_a_compressed_tar_archive(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as packed:  # stored: the change meets the file, not its form
        member = tarfile.TarInfo("w.pth")
        member.size = len(CONTENT)
        packed.addfile(member, io.BytesIO(CONTENT))
    damaged = bytearray(archive.read_bytes())
    damaged[150_000] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(WeightsError, match=r"archive\.tar\.gz cannot be unpacked \(CRC check failed"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_to_what_lzma_compressed(tmp_path: Path) -> None:
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
        with pytest.raises(WeightsError, match=r"cannot be unpacked \(.*\); is it a whole zip or tar archive"):
            unpack(archive, tmp_path / "out")
