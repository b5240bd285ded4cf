from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest
import torch

from hrseg.callbacks import AtomicCheckpointIO
from hrseg.errors import OutputError
from hrseg.inference import Checkpoint


def test_a_checkpoint_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.ones(3)}}, path)
    assert torch.equal(torch.load(path, weights_only=True)["state_dict"]["weight"], torch.ones(3))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"step": 1}, path)

    def half(checkpoint: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise error

    monkeypatch.setattr(torch, "save", half)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        writer.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # larger writes fail
    try:
        with pytest.raises(OutputError, match=r"last.ckpt cannot be written: File too large; make room"):
            AtomicCheckpointIO().save_checkpoint({"weight": torch.ones(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_what_was_read_before_is_handed_on_once(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"global_step": 1}, path)
    known = Checkpoint(path, {"global_step": 2})
    reader = AtomicCheckpointIO(known)
    assert reader.load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2
    assert not known.content  # nothing stays in memory
    assert reader.load_checkpoint(path)["global_step"] == 1
    other = tmp_path / "other.ckpt"
    AtomicCheckpointIO().save_checkpoint({"global_step": 3}, other)
    assert AtomicCheckpointIO(Checkpoint(path, {"global_step": 2})).load_checkpoint(other)["global_step"] == 3
