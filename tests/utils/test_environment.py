from __future__ import annotations

import torch

from hrseg.utils.environment import describe_environment


def test_environment() -> None:
    environment = describe_environment(("torch", "no-such-distribution"))
    assert list(environment) == ["date", "commit", "versions", "hardware"]
    assert environment["versions"].endswith(f"torch {torch.__version__.split('+')[0]}")
    assert "cores" in environment["hardware"]
