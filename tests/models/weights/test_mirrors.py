"""Local files compared with published sizes and hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from hrseg.errors import WeightsError
from hrseg.models.weights.mirrors import Mirror, check, record_hash, sha256_of

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def test_checks(tmp_path: Path) -> None:
    known, unknown = Mirror("https://somewhere/w.pth", DIGEST[:8]), Mirror("https://somewhere/v.pth")
    path, other = tmp_path / "w.pth", tmp_path / "v.pth"
    for file in (path, other):
        file.write_bytes(CONTENT)
        record_hash(file, DIGEST)
    assert check(path, known) == (True, "has the published hash")
    assert check(other, unknown) == (True, "is as downloaded")
    by_hand = tmp_path / "by_hand.pth"
    by_hand.write_bytes(CONTENT)
    assert check(by_hand, unknown) == (True, f"has no known hash; its sha256 is {DIGEST}")

    damaged = bytearray(CONTENT)
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    other.write_bytes(damaged)
    digest = hashlib.sha256(damaged).hexdigest()
    assert check(path, known) == (False, f"has a sha256 that starts with {digest[:8]}; expected {DIGEST[:8]}")
    assert check(other, unknown) == (False, f"has sha256 {digest}; it was {DIGEST} when the file was downloaded")
    other.write_bytes(b"")
    assert check(other, unknown) == (False, "is empty")
    with pytest.raises(WeightsError, match=r"gone\.pth cannot be read: No such file"):
        check(tmp_path / "gone.pth", unknown)


def test_files_of_the_hub_are_checked_against_the_hash_in_their_name(tmp_path: Path) -> None:
    blob, link = tmp_path / "blobs" / DIGEST, tmp_path / "snapshots" / "model.safetensors"
    for folder in (blob.parent, link.parent):
        folder.mkdir()
    link.symlink_to(blob)
    mirror = Mirror("hf://a/b/model.safetensors")
    blob.write_bytes(CONTENT)
    assert check(link, mirror) == (True, "is as downloaded")
    blob.write_bytes(CONTENT[:-1])
    assert check(link, mirror)[0] is False


def test_hash(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2, B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == digest
