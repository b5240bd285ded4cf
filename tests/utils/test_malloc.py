from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from hrseg.utils import malloc

# what a training step does: many large blocks that live together, and are freed together
STEPS = """
import resource
from hrseg.utils.malloc import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def step():
    blocks = [bytearray(8 * 2**20) for _ in range(20)]
    for block in blocks:
        block[::4096] = bytes(len(block) // 4096)
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_of_a_step(keep: bool) -> int:
    process = subprocess.run(
        [sys.executable, "-c", STEPS.format(keep=keep)], check=True, stdout=subprocess.PIPE, text=True
    )
    return int(process.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_a_step_reuses_the_memory_of_the_previous_one() -> None:
    assert pages_of_a_step(keep=True) < pages_of_a_step(keep=False) / 10


def test_nothing_changes_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not malloc.keep_freed_memory()
