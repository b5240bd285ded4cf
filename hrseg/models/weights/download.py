"""Downloads of published files from the first mirror that works: verified, atomic, once for all processes."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from hrseg.errors import WeightsError
from hrseg.models.weights.archives import extract, is_archive
from hrseg.models.weights.mirrors import Mirror, mirror_of, mismatch, record_hash, sha256_of
from hrseg.utils.files import TEMPORARY, replacing, writing
from hrseg.utils.locks import locked

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0  # without data
MAX_RETRIES = 2  # per mirror, after server errors and interrupted connections
PAUSE = 1.0  # seconds before the first retry, doubled before the next

Examine = Callable[[Path], None]  # raises a `WeightsError` that names the path if the content is wrong


def fetch(mirrors: Sequence[Mirror], folder: Path, examine: Examine = lambda path: None) -> Path:
    """Downloads a file from the first mirror that has it; of several processes, one downloads and the others wait.

    Args:
        mirrors: In the order to be tried.
        folder: Target folder, created if missing. Files from the Hugging Face hub go to the hub's own cache.
        examine: Called with the complete file before it is put in place; not for files from the hub.

    Returns:
        The file.

    Raises:
        WeightsError: No mirror has the file with the published size and hash, and a content that `examine` accepts.
        OutputError: The folder cannot be written to, or the disk is full.
    """
    failures = []
    for mirror in mirrors:
        try:
            path = _from_hub(mirror) if mirror.repository else _from_web(mirror, folder, examine)
        except WeightsError as failure:
            failures.append(f"{mirror} ({failure})")
            continue
        if failures:
            logger.warning("downloaded %s, after %s", mirror, "; ".join(failures))
        return path
    raise WeightsError(f"cannot download {'; '.join(failures)}")


def import_file(
    source: Path, files: Sequence[str], mirrors: Sequence[Mirror], folder: Path, examine: Examine = lambda path: None
) -> Path:
    """Copies a manually downloaded file to where `fetch` would have put it.

    Args:
        source: The file under any name, or a zip or tar archive that contains one of `files`.
        files: Accepted file names; a `source` with another name becomes the first with its suffix.
        mirrors: Where the file is published, for its size and hash.
        folder: Target folder, created if missing.
        examine: As for `fetch`.

    Returns:
        The file in `folder`.

    Raises:
        WeightsError: There is no such file, the archive does not contain it, or its suffix, size, hash or content are
            not as expected.
        OutputError: The folder cannot be written to.
    """
    if not source.is_file():
        raise WeightsError(f"no file {source}; expected the manually downloaded file")
    with ExitStack() as stack:
        title = str(source)
        if is_archive(source):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                unpacked = stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY))
            source = extract(source, files, Path(unpacked))
            title = f"{source.name} of {title}"
        fitting = [file for file in files if file == source.name]
        fitting += [file for file in files if source.suffix in ("", Path(file).suffix)]
        if not fitting:
            raise WeightsError(f"{source} has another suffix than {' or '.join(files)}; give the file itself")
        path = folder / fitting[0]
        with locked(folder / ".lock"):
            _install(partial(shutil.copyfile, source), path, mirror_of(path, mirrors), examine, title)
    return path


def _from_web(mirror: Mirror, folder: Path, examine: Examine) -> Path:
    path = folder / mirror.file
    with locked(folder / ".lock"):
        if not path.is_file():  # else another process has downloaded it
            _install(partial(_download, mirror), path, mirror, examine, "the downloaded file")
    return path


def _install(write: Callable[[Path], object], path: Path, mirror: Mirror, examine: Examine, title: str) -> None:
    """Writes a file, checks its size, hash and content, and puts it in place with its hash beside it."""
    with replacing(path) as temporary:
        write(temporary)
        digest = sha256_of(temporary)
        if problem := mismatch(temporary, digest, mirror):
            raise WeightsError(f"{title} {problem}; download it again")
        try:
            examine(temporary)
        except WeightsError as error:  # names the temporary file
            raise WeightsError(str(error).replace(str(temporary), title)) from error
        record_hash(path, digest)


def _download(mirror: Mirror, path: Path) -> None:
    from pooch import HTTPDownloader  # slow to import
    from requests import RequestException
    from requests.exceptions import ChunkedEncodingError

    download = HTTPDownloader(
        progressbar=sys.stderr is not None and sys.stderr.isatty(),
        chunk_size=1 << 16,
        timeout=TIMEOUT_SECONDS,
        headers={"Accept-Encoding": "identity"},  # size and hash are those of the plain file
    )
    for pause in (*(PAUSE * 2**retry for retry in range(MAX_RETRIES)), None):
        try:
            download(mirror.url, str(path), None)
            return
        except RequestException as error:
            status = 0 if error.response is None else error.response.status_code
            interrupted = isinstance(error, ChunkedEncodingError) or path.stat().st_size > 0
            if pause is None or not (status >= 500 or status == 429 or interrupted):
                raise WeightsError(_reason(error)) from error
            logger.info("%s: %s, trying again", mirror, _reason(error))
            time.sleep(pause)


def _reason(error: BaseException) -> str:
    """The message of an error of requests, or of the system error that caused it."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).split("\n")[0]


def _from_hub(mirror: Mirror) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url  # slow to import

    try:
        # fails with the reason at once; the download itself would retry for long and hide it
        get_hf_file_metadata(hf_hub_url(mirror.repository, mirror.file))
        return Path(hf_hub_download(mirror.repository, mirror.file))
    except Exception as error:  # the hub's and its HTTP library's classes differ between versions
        raise WeightsError(str(error).split("\n")[0] or type(error).__name__) from error
