from __future__ import annotations

from pathlib import Path

import torch

import hrseg
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.run.messages import description


def test_the_first_line_says_what_the_network_starts_from(tmp_path: Path) -> None:
    network = hrseg.create_model("hrnetv2_w18_small_v1", 19)
    hrseg.save_weights(network, tmp_path / "street.safetensors")
    labels = CamVidDataModule.labels
    random = hrseg.SegmentationTask("hrnetv2_w18_small_v1", labels)
    assert "M parameters, no weights, init kaiming) on CamVid" in description(random, starts=True)
    assert "M parameters) on CamVid" in description(random)
    started = hrseg.SegmentationTask(
        "hrnetv2_w18_small_v1", labels, weights=str(tmp_path / "street.safetensors"), reinit_head=True
    )
    assert "M parameters, weights of street.safetensors) on CamVid" in description(started, starts=True)
    assert "Linear (0.00 M parameters) on" in description(hrseg.SegmentationTask(torch.nn.Linear(1, 1), labels), True)
