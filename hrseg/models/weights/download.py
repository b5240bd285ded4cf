"""Large files from the network: place by place, resumed, verified, put in place whole, by one process at a time."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from hrseg.errors import WeightsError
from hrseg.models.weights.archives import is_archive, unpack
from hrseg.utils.files import TEMPORARY, replacing, writing
from hrseg.utils.locks import locked
from hrseg.utils.progress import track_progress

logger = logging.getLogger(__name__)

HUB = "hf://"  # of links to the Hugging Face hub: hf://OWNER/REPOSITORY/FILE
SECONDS_WITHOUT_DATA = 30.0  # after which a connection counts as dead
FRUITLESS_TRIES = 3  # in a row, after which a place is given up
PAUSE = 1.0  # seconds before the second try, twice as long before each one that follows

_CHUNK = 1 << 16
_MIB = 1 << 20

Examine = Callable[[Path], None]  # raises a WeightsError that names the path where the file holds something else


def _anything(path: Path) -> None:
    """Of a file of which nothing is known."""


@dataclass(frozen=True)
class Mirror:
    """One place where a file is to be had without a browser.

    Args:
        url: https://..., or hf://OWNER/REPOSITORY/FILE for the Hugging Face hub.
        sha256: As many of the first hexadecimal digits as are published; empty if none are.
        size: In bytes; None if it is not published.
    """

    url: str
    sha256: str = ""
    size: int | None = None

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]

    @property
    def repository(self) -> str:
        """Name of the repository on the hub; empty for other places."""
        return self.url.removeprefix(HUB).rpartition("/")[0] if self.url.startswith(HUB) else ""

    def __str__(self) -> str:
        if self.repository:
            return f"{self.file} of {self.repository} from the Hugging Face hub"
        return f"{self.file} from {self.url.rpartition('/')[0]}"


class _GivenUpError(Exception):
    """A place does not give the file; the message says why."""


def fetch(mirrors: Sequence[Mirror], folder: Path, examine: Examine = _anything) -> Path:
    """Fetches a file from the first of its places that gives it.

    What the hub gives lies in the hub's own cache, all else in `folder`. Several processes may ask for the same file:
    one fetches it, the others wait. A download that was cut off goes on where it was, in a later process too.

    Args:
        mirrors: One or more places, the one to be tried first in front.
        folder: Made if it is missing.
        examine: Sees what came from the web before that takes its place; the hub looks after its own.

    Returns:
        The file.

    Raises:
        WeightsError: No place gives the file whole, with its published size and hash, and such that it is the one.
        OutputError: The folder cannot be written to, or is full.
    """
    failures = []
    for mirror in mirrors:
        try:
            path = _from_hub(mirror) if mirror.repository else _from_web(mirror, folder, examine)
        except _GivenUpError as failure:
            failures.append(f"{mirror} ({failure})")
            continue
        if failures:
            logger.warning("took %s, for want of %s", mirror, "; ".join(failures))
        return path
    raise WeightsError(f"cannot fetch {'; '.join(failures)}")


def adopt(
    source: Path,
    files: Sequence[str],
    mirrors: Sequence[Mirror],
    folder: Path,
    examine: Examine = _anything,
) -> Path:
    """Puts a file that was fetched by hand where `fetch` would have put it.

    Args:
        source: The file under any name, or a zip or tar archive with one of `files` in it.
        files: Names that the file may have; where `source` has none of them, the first with its suffix is taken.
        mirrors: Places that may say size and hash of the file.
        folder: Made if it is missing.
        examine: As for `fetch`.

    Returns:
        The file in `folder`; `source` stays where it is.

    Raises:
        WeightsError: There is no such file, the archive does not hold it, none of `files` has its suffix, size or hash
            are not those published, or it holds something else.
        OutputError: The folder cannot be written to.
    """
    if not source.is_file():
        raise WeightsError(f"no file {source}; expected what was fetched by hand")
    if is_archive(source):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            temporary_folder = tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY)
        with temporary_folder as unpacked:
            unpack(source, Path(unpacked))
            found = [path for path in sorted(Path(unpacked).rglob("*")) if path.name in files and path.is_file()]
            if not found:
                raise WeightsError(f"{source} does not hold {' or '.join(files)}; give the file itself")
            with _called(f"{found[0].name} of {source}", found[0]):
                return adopt(found[0], files, mirrors, folder, examine)
    fitting = [file for file in files if file == source.name]
    fitting += [file for file in files if source.suffix in ("", Path(file).suffix)]
    if not fitting:
        raise WeightsError(f"{source} is not {' or '.join(files)}, by its ending; give the file itself")
    path = folder / fitting[0]
    with locked(folder / ".lock"), replacing(path) as temporary:
        shutil.copyfile(source, temporary)
        digest = sha256_of(temporary)
        if fault := _fault(temporary, digest, mirror_of(path, mirrors)):
            raise WeightsError(f"{source} {fault}; fetch it again")
        with _called(str(source), temporary):
            examine(temporary)
        _note(path, digest)
    return path


def mirror_of(path: Path, mirrors: Sequence[Mirror]) -> Mirror:
    """The place that has a file of that name; where none has, one that is known by nothing else."""
    return next((mirror for mirror in mirrors if mirror.file == path.name), Mirror(path.name))


def require_published(path: Path, mirror: Mirror) -> None:
    """Compares a file that was put in its place by hand with its published hash, as `fetch` and `adopt` do with others.

    Args:
        path: In the folder that was given to `fetch`, or in the hub's cache.
        mirror: Where it is from.

    Raises:
        WeightsError: The file cannot be read, or is not the published one.
    """
    if mirror.sha256 and not _noted(path):
        sound, finding = check(path, mirror)
        if not sound:
            raise WeightsError(f"{path} {finding}; remove it and fetch it again")


def check(path: Path, mirror: Mirror) -> tuple[bool, str]:
    """Reads a file again, and compares it with what is published of it and with what was noted when it was fetched.

    Args:
        path: In the folder that was given to `fetch`, or in the hub's cache.
        mirror: Where it is from.

    Returns:
        Whether nothing is wrong with it, and what was found, to stand behind the file's name.

    Raises:
        WeightsError: The file cannot be read.
    """
    try:
        digest = sha256_of(path)
        fault, noted = _fault(path, digest, mirror), _noted(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}; fetch it again") from error
    if fault:
        return False, fault
    if noted not in ("", digest):
        return False, f"has sha256 {digest}; it was {noted} when the file was fetched"
    if mirror.sha256:
        return True, "has the published hash"
    return True, "is as it was fetched" if noted else f"is a file of which no hash is known; its sha256 is {digest}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_MIB):
            digest.update(chunk)
    return digest.hexdigest()


def _from_hub(mirror: Mirror) -> Path:
    # needed by few, and slow to import
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        # asks once, and tells what is wrong: without a network, the download would try for long and lose the reason
        get_hf_file_metadata(hf_hub_url(mirror.repository, mirror.file))
        return Path(hf_hub_download(mirror.repository, mirror.file))
    except Exception as error:  # the hub's own classes differ from version to version, as do those of its HTTP library
        raise _GivenUpError(str(error).split("\n")[0] or type(error).__name__) from error


def _from_web(mirror: Mirror, folder: Path, examine: Examine) -> Path:
    path, part = folder / mirror.file, folder / f".{mirror.file}.part"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        if path.is_file():  # another process was quicker
            return path
        _complete(mirror, part)
        _tag_of(part).unlink(missing_ok=True)
        with replacing(path) as temporary:
            part.replace(temporary)
            digest = sha256_of(temporary)
            if fault := _fault(temporary, digest, mirror):
                raise _GivenUpError(f"what came {fault}")
            try:
                with _called("what came", temporary):
                    examine(temporary)
            except WeightsError as error:
                raise _GivenUpError(str(error)) from error
            _note(path, digest)
        with writing(path):
            for left in folder.glob(".*.part*"):  # by other places
                left.unlink()
    return path


@contextmanager
def _called(name: str, path: Path) -> Iterator[None]:
    """Lets messages call a file by the name its user knows, for a path that is gone when they are read."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(str(error).replace(str(path), name)) from error


def _complete(mirror: Mirror, part: Path) -> None:
    """Receives until the part is whole: a cut connection is opened again as long as the connections bring something."""
    fruitless, reached = 0, False
    while True:
        before = _size(part)
        try:
            if _receive(mirror, part):
                return
            reason = "the connection was cut"
        except HTTPError as error:
            error.close()
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416:  # the part is no beginning of what is there now
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code != 429:
                raise _GivenUpError(reason) from error
        except (OSError, HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if isinstance(error, URLError) and not reached:  # no such place, or no network
                raise _GivenUpError(reason) from error
        reached = True
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless == FRUITLESS_TRIES:
            raise _GivenUpError(reason)
        logger.info("%s: %s after %d bytes, trying again", mirror, reason, _size(part))
        time.sleep(PAUSE * 2 ** max(fruitless - 1, 0))


def _receive(mirror: Mirror, part: Path) -> bool:
    """One connection: appends to the part what is missing of it, or starts it anew. Returns whether it is whole."""
    start, tag = _size(part), _tag(part)
    headers = {"User-Agent": "hrseg"}
    if start and tag:  # without a tag nothing would tell that the file there has changed
        headers |= {"Range": f"bytes={start}-", "If-Range": tag}
    with urlopen(Request(mirror.url, headers=headers), timeout=SECONDS_WITHOUT_DATA) as response:
        if response.headers.get_content_type() == "text/html":
            raise _GivenUpError("a web page came instead of the file")
        goes_on = response.status == 206
        found = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "")) if goes_on else None
        if goes_on and (found is None or int(found[1]) != start or _validator(response) != tag):
            part.unlink()
            return False
        total = int(found[2]) if found else _number(response.headers.get("Content-Length"))
        if not goes_on:
            with writing(part):
                part.unlink(missing_ok=True)
                _tag_of(part).write_text(_validator(response))
            start = 0
        steps = _append(response, part)
        if total is None:
            for _ in steps:
                pass
            return True
        for _ in track_progress(steps, f"fetching {mirror.file}, MiB", (total - start) // _MIB):
            pass
        return _size(part) == total


def _append(response: HTTPResponse, part: Path) -> Iterator[None]:
    """Appends what comes to the part, as it comes; yields once per MiB."""
    with writing(part):
        file = part.open("ab", buffering=0)  # a buffer that a full disk does not take would be tried again by close
    received = 0
    with file:
        while chunk := response.read1(_CHUNK):
            with writing(part):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]
            received += len(chunk)
            while received >= _MIB:
                received -= _MIB
                yield


def _validator(response: Any) -> str:
    """What tells a version of the file from others, in a form that `If-Range` takes; empty if there is nothing."""
    tag = str(response.headers.get("ETag") or "")
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("Last-Modified") or "")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _tag(part: Path) -> str:
    tag = _tag_of(part)
    return tag.read_text() if tag.is_file() else ""


def _fault(path: Path, digest: str, mirror: Mirror) -> str:
    size = path.stat().st_size
    if mirror.size not in (None, size):
        return f"has {size} bytes; expected {mirror.size}"
    if not digest.startswith(mirror.sha256):
        return f"has a sha256 that starts with {digest[: len(mirror.sha256)]}; expected {mirror.sha256}"
    return "" if size else "is empty"


def _note(path: Path, digest: str) -> None:
    """Writes the hash beside the file, in the form that `sha256sum --check` reads."""
    with replacing(path.with_name(f"{path.name}.sha256")) as temporary:
        temporary.write_text(f"{digest}  {path.name}\n")


def _noted(path: Path) -> str:
    note = path.with_name(f"{path.name}.sha256")
    if note.is_file():
        return note.read_text()[:64]
    # the hub's cache names a large file by its hash, and links to it
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else ""
