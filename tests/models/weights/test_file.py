"""Files that describe their own network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hrseg.errors import WeightsError
from hrseg.models import open_weights

BACKBONE = {"stage2.0.branches.0.0.conv1.weight": torch.ones(1), "stage4.0.x": torch.ones(1)}


@pytest.mark.parametrize("own", ["abc", {"network": "x"}, {"network": {"name": ["a"]}}, [1], 5], ids=str)
def test_a_description_of_another_type_is_refused(own: Any, tmp_path: Path) -> None:
    torch.save({**BACKBONE, "hrseg": own}, tmp_path / "ours.pth")
    save_file(BACKBONE, tmp_path / "ours.safetensors", {"hrseg": json.dumps(own)})
    for path in (tmp_path / "ours.pth", tmp_path / "ours.safetensors"):
        with pytest.raises(WeightsError, match=r"ours.* describes its network under 'hrseg' as .*; expected") as caught:
            open_weights(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("own", [None, {}, {"network": None}], ids=str)
def test_a_description_without_a_network_is_ignored(own: Any, tmp_path: Path) -> None:
    torch.save({**BACKBONE, "hrseg": own}, tmp_path / "ours.pth")
    assert open_weights(tmp_path / "ours.pth").origin == "backbone"
