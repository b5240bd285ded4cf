"""Download locations of published files, and verification of local copies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hrseg.errors import WeightsError
from hrseg.utils.files import replacing

HUB = "hf://"  # links to the Hugging Face hub: hf://OWNER/REPOSITORY/FILE


@dataclass(frozen=True)
class Mirror:
    """A download location of a file.

    Args:
        url: https://..., or hf://OWNER/REPOSITORY/FILE for the Hugging Face hub.
        sha256: The published first hexadecimal digits; empty if there are none.
        size: Size in bytes; None if it is not published.
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
        """Name of the repository on the hub; empty for other links."""
        return self.url.removeprefix(HUB).rpartition("/")[0] if self.url.startswith(HUB) else ""

    def __str__(self) -> str:
        if self.repository:
            return f"{self.file} of {self.repository} from the Hugging Face hub"
        return f"{self.file} from {self.url.rpartition('/')[0]}"


def mirror_of(path: Path, mirrors: Iterable[Mirror]) -> Mirror:
    """The mirror with a file of this name, or else one without hash and size."""
    return next((mirror for mirror in mirrors if mirror.file == path.name), Mirror(path.name))


def require_published(path: Path, mirror: Mirror) -> None:
    """Compares a file with its published hash, unless it was compared when it was downloaded.

    Raises:
        WeightsError: The file cannot be read, or is not the published one.
    """
    if mirror.sha256 and not _recorded_hash(path):
        matches, finding = check(path, mirror)
        if not matches:
            raise WeightsError(f"{path} {finding}; remove it and download it again")


def check(path: Path, mirror: Mirror) -> tuple[bool, str]:
    """Compares a file with its published size and hash, and with the hash recorded when it was downloaded.

    Args:
        path: A file in the folder of the weights or in the hub's cache.
        mirror: Its mirror.

    Returns:
        Whether it passes, and the finding, worded to follow the file's name.

    Raises:
        WeightsError: The file cannot be read.
    """
    try:
        digest = sha256_of(path)
        problem, recorded = mismatch(path, digest, mirror), _recorded_hash(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}; download it again") from error
    if problem:
        return False, problem
    if recorded not in ("", digest):
        return False, f"has sha256 {digest}; it was {recorded} when the file was downloaded"
    if mirror.sha256:
        return True, "has the published hash"
    return True, "is as downloaded" if recorded else f"has no known hash; its sha256 is {digest}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    from pooch import file_hash  # slow to import

    return str(file_hash(str(path), alg="sha256"))


def mismatch(path: Path, digest: str, mirror: Mirror) -> str:
    """Describes how a file with this SHA-256 differs from the published one; empty if it does not."""
    with path.open("rb") as file:
        is_page = file.read(64).lstrip().startswith(b"<")
    size = path.stat().st_size
    if is_page:
        return "is a web page, perhaps a login"
    if mirror.size not in (None, size):
        return f"has {size} bytes; expected {mirror.size}"
    if not digest.startswith(mirror.sha256):
        return f"has a sha256 that starts with {digest[: len(mirror.sha256)]}; expected {mirror.sha256}"
    return "" if size else "is empty"


def record_hash(path: Path, digest: str) -> None:
    """Writes the hash beside the file, in the format of `sha256sum --check`."""
    with replacing(_hash_file(path)) as temporary:
        temporary.write_text(f"{digest}  {path.name}\n")


def _recorded_hash(path: Path) -> str:
    if _hash_file(path).is_file():
        return _hash_file(path).read_text()[:64]
    # the hub's cache names a large file by its hash, and links to it
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else ""


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
