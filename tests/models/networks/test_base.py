"""The base classes of the networks."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch

from hrseg.models import HRNetV2, HRNetVariant, Segmenter

TINY = HRNetVariant(4, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=4)


def test_networks_are_plain_modules() -> None:
    network = HRNetV2(TINY, num_classes=3)
    assert list(inspect.signature(HRNetV2).parameters)[:2] == ["variant", "num_classes"]
    with pytest.raises(TypeError, match="abstract"):
        Segmenter()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="num_clases"):
        HRNetV2(TINY, num_clases=3)  # type: ignore[call-arg]
    for twin in (copy.deepcopy(network), copy.copy(network), pickle.loads(pickle.dumps(network))):
        assert all(
            torch.equal(a, b) for a, b in zip(twin.state_dict().values(), network.state_dict().values(), strict=True)
        )
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    assert isinstance(torch.load(file, weights_only=False), HRNetV2)


def test_user_subclass() -> None:
    class Mine(HRNetV2):
        def __init__(self, width: int, *, more: bool = False) -> None:
            super().__init__(HRNetVariant(width, 1, (1, 1, 1), 1, 4))
            self.more = more

    assert Mine(4, more=True).more
    assert list(inspect.signature(Mine).parameters) == ["width", "more"]
