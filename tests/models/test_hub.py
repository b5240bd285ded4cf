"""Saving and loading of networks in folders and on the Hugging Face hub."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import safe_open
from torch import Tensor

import hrseg
from hrseg.errors import OutputError, UnknownNameError, WeightsError
from hrseg.models import (
    HRNetV2,
    HRNetVariant,
    Network,
    Segmenter,
    create_model,
    from_pretrained,
    push_to_hub,
    save_pretrained,
)
from hrseg.models.registry import FAMILIES

SMALL = "hrnetv2_w18_small_v1"
SMALL_OCR = f"{SMALL}_ocr"
# arguments other than the defaults
ARGUMENTS: dict[str, dict[str, Any]] = {
    SMALL: {"num_classes": 3, "fuse_mode": "nearest", "checkpoint_stages": [4]},
    SMALL_OCR: {"num_classes": 3, "mid_channels": 16, "key_channels": 8, "aux_channels": 16, "align_corners": False},
    f"{SMALL}_ocr_hmsa": {"num_classes": 3, "mid_channels": 16, "key_channels": 8, "scales": [0.5, 1.0, 2.0]},
    f"{SMALL}_psa_p": {"num_classes": 3},
    f"{SMALL}_psa_s_ocr": {"num_classes": 3, "mid_channels": 16, "key_channels": 8},
    f"{SMALL}_cls": {"num_classes": 7},
    "hrnetv1_w18_small_v1": {"num_classes": 3, "align_corners": True},
    "hrnetv2p_w18_small_v1": {"in_channels": 4},
    "hrformer_t": {"num_classes": 7, "window_size": 5},
    "hrformer_t_ocr": {"num_classes": 3, "window_size": 5},
}
TASKS = {
    f"{SMALL}_cls": "image-classification",
    "hrformer_t": "image-classification",
    "hrnetv2p_w18_small_v1": "image-feature-extraction",
}
# the smallest of each family
NAMES = [next(iter(family.networks)) for family in FAMILIES.values()]
TINY = HRNetVariant(4, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=4)


@pytest.fixture
def network() -> Network:
    return create_model(SMALL, num_classes=3)


def outputs(network: Network) -> list[Tensor]:
    images = torch.randn(1, network.config["in_channels"], 64, 65, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result = copy.deepcopy(network).eval()(images)
    return [result] if isinstance(result, Tensor) else list(result.values())


def code_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return str(code)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_of_every_family(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model(name, **ARGUMENTS.get(name, {}))
    folder = tmp_path / "new" / "a folder"
    save_pretrained(network, folder)
    assert network.training
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["hrseg"])["network"] == network.config
    assert json.loads((folder / "config.json").read_text()) == {"library_name": "hrseg", "network": network.config}

    again = from_pretrained(folder)
    assert type(again) is type(network)
    assert not again.training
    assert again.config == network.config
    assert all(torch.equal(a, b) for a, b in zip(outputs(again), outputs(network), strict=True))
    assert type(from_pretrained(str(folder))) is type(network)

    text = (folder / "README.md").read_text()
    card: Any = ModelCard(text)
    assert card.data.library_name == "hrseg"
    assert card.data.license is None
    if isinstance(network, Segmenter):
        assert (card.data.pipeline_tag, card.data.tags[0]) == ("image-segmentation", "semantic-segmentation")
    else:
        task = "image-classification" if "num_classes" in network.config else "image-feature-extraction"
        assert (card.data.pipeline_tag, card.data.tags) == (task, ["hrnet"])
        assert TASKS.get(name, task) == task
    names: dict[str, Any] = {}
    exec(code_of(text), names)
    assert names["net"].config == network.config


def test_arguments_override_the_file(network: Network, tmp_path: Path) -> None:
    save_pretrained(network, tmp_path)
    assert from_pretrained(tmp_path, bn_momentum=0.5).config["bn_momentum"] == 0.5
    with pytest.raises(UnknownNameError, match="did you mean bn_momentum"):
        from_pretrained(tmp_path, bn_momentun=0.5)


def test_an_existing_card_is_kept_and_the_rest_replaced(network: Network, tmp_path: Path) -> None:
    save_pretrained(network, tmp_path)
    (tmp_path / "README.md").write_text("mine")
    other = create_model(SMALL, num_classes=5)
    save_pretrained(other, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert from_pretrained(tmp_path).config == other.config


def test_a_network_without_config_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"this HRNetV2 was not built by create_model .* save its state_dict\(\)"):
        save_pretrained(HRNetV2(TINY), tmp_path / "new")
    with pytest.raises(WeightsError, match="not built by create_model"):
        push_to_hub(HRNetV2(TINY), "user/name")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to(network: Network, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file cannot be written: File exists; make room"):
        save_pretrained(network, tmp_path / "file")


# the hub


class Hub:
    """A fake hub with repositories in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[dict[str, Any]] = []

    def create_repo(self, api: object, repo_id: str, **settings: Any) -> Any:
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)
        return type("Address", (), {"repo_id": repo_id})()

    def upload_folder(self, api: object, repo_id: str, folder_path: Path, **settings: Any) -> str:
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)
        return f"https://hub/{repo_id}/commit/1"

    def download(self, repo_id: str, filename: str, **settings: Any) -> str:
        self.asked.append({"repo_id": repo_id, "filename": filename, **settings})
        return str(self.folder / repo_id / filename)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    for method in ("create_repo", "upload_folder"):
        replacement = getattr(hub, method)
        monkeypatch.setattr(
            f"huggingface_hub.HfApi.{method}",
            lambda api, replacement=replacement, **settings: replacement(api, **settings),
        )
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.download)
    return hub


def test_to_the_hub_and_back(network: Network, hub: Hub) -> None:
    assert push_to_hub(network, "user/street", private=True, token="secret") == "https://hub/user/street/commit/1"
    assert {path.name for path in (hub.folder / "user" / "street").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    code = code_of((hub.folder / "user" / "street" / "README.md").read_text())
    assert 'net = hrseg.from_pretrained("user/street")' in code
    names: dict[str, Any] = {}
    exec(code, names)
    assert hub.asked == [
        {
            "repo_id": "user/street",
            "filename": "model.safetensors",
            "force_download": False,
            "token": None,
            "cache_dir": None,
            "local_files_only": False,
            "revision": None,
        }
    ]
    assert all(torch.equal(a, b) for a, b in zip(outputs(names["net"]), outputs(network), strict=True))

    hrseg.from_pretrained("user/street", revision="v1", token="secret", cache_dir="/cache", num_classes=3)
    assert hub.asked[-1]["revision"] == "v1"
    assert hub.asked[-1]["token"] == "secret"
    assert hub.asked[-1]["cache_dir"] == "/cache"


def test_unknown_settings(network: Network, hub: Hub) -> None:
    with pytest.raises(TypeError, match="privat"):
        push_to_hub(network, "user/street", privat=True)  # type: ignore[call-arg]


def without_response(error: type[Exception], text: str) -> Exception:
    """An error of the hub without the response that some constructors require."""
    instance = error.__new__(error)
    Exception.__init__(instance, text)
    return instance


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RepositoryNotFoundError, "no folder user/street, and no such repository on the Hugging Face hub, or one that"),
        (RevisionNotFoundError, "user/street on the Hugging Face hub has no revision v2$"),
        (EntryNotFoundError, r"user/street on the Hugging Face hub has no model\.safetensors; was it saved by hrseg\?"),
        (HFValidationError, "user/street is neither a folder nor the name of a repository on the Hugging Face hub"),
        (
            LocalEntryNotFoundError,
            r"\(LocalEntryNotFoundError\), whose cache /my/cache does not hold it; download it where",
        ),
        (
            ConnectionError,
            r"cannot download model\.safetensors of user/street from the Hugging Face hub \(ConnectionError\)",
        ),
    ],
)
def test_failed_downloads_from_the_hub(error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*place: str, **settings: Any) -> str:
        raise without_response(error, "several\nlines of text")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(WeightsError, match=message) as caught:
        from_pretrained("user/street", revision="v2", cache_dir="/my/cache")
    assert "\n" not in str(caught.value)


def test_failed_uploads_to_the_hub(network: Network, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(api: object, **settings: Any) -> str:
        raise ConnectionError("several\nlines of text")

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", refuse)
    with pytest.raises(WeightsError) as caught:
        push_to_hub(network, "user/street")
    message = str(caught.value)
    assert message.startswith(
        "cannot push to user/street on the Hugging Face hub (ConnectionError); is there a network"
    )
    assert "\n" not in message


def test_folders_without_our_files(network: Network, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no file .*model\.safetensors"):
        from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04damaged")
    with pytest.raises(WeightsError, match="cannot be read"):
        from_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"model\.safetensors is a file; give the folder that it is in"):
        from_pretrained(tmp_path / "model.safetensors")


def test_pickles_are_never_read(network: Network, tmp_path: Path) -> None:
    save_pretrained(network, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"no file .*model\.safetensors"):
        from_pretrained(tmp_path)


def test_light_modules_do_not_import_the_hub() -> None:
    modules = "hrseg, hrseg.cli, hrseg.cli.models, hrseg.cli.weights, hrseg.models.registry"
    script = f"import sys, {modules}; print('huggingface_hub' in sys.modules, 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
