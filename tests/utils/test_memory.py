from __future__ import annotations

import sys

import pytest
import torch

from hrseg.utils import memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc/meminfo")
def test_the_memory_of_this_machine_that_is_available() -> None:
    available = memory.available_memory(torch.device("cpu"))
    assert available is not None
    assert 0 < available < 2**20


def test_the_memory_of_other_devices_is_unknown() -> None:
    assert memory.available_memory(torch.device("meta")) is None
