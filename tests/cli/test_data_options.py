from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrseg.cli.data_options import parse_data


@pytest.mark.parametrize("name", ["1e-3", "\N{CAMERA} photos", "caf\u00e9: 'x'"])
def test_the_data_of_a_run_are_found_whatever_their_folder_is_called(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    data = {"class_path": "hrseg.CamVidDataModule", "init_args": {"root": name, "batch_size": 2, "crop_size": [32, 32]}}
    path.write_text(json.dumps({"data": data}, ensure_ascii=False), encoding="utf-8")
    assert str(parse_data(["--config", str(path)]).root) == name
