"""Registration of a user's own networks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from hrseg.data.datasets.camvid import CAMVID
from hrseg.errors import ConfigError, UnknownNameError, WeightsError
from hrseg.inference import Predictor
from hrseg.models import HRNetV2, Segmenter, create_model, list_models, load_weights, register, save_weights
from hrseg.models.registry import BUILDERS, FAMILIES, Family
from hrseg.task import SegmentationTask

MODULE = """
from torch import nn

import hrseg
from hrseg.models import Segmenter


class Fully(Segmenter):
    head_names = ("classify",)

    def __init__(self, width: int, num_classes: int = 19, align_corners: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.widen = nn.Conv2d(3, width, 3, stride=4, padding=1)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def features(self, images):
        return (self.widen(images),)

    def outputs(self, images):
        (x,) = self.features(images)
        return {"out": self.classify(x.relu())}


hrseg.register("fully_SIZE", Fully, {"s": 4, "l": 8}, title="Fully convolutional", head_keys=("classify.weight",))
"""


@pytest.fixture(autouse=True)
def only_for_this_test() -> Iterator[None]:
    families, builders = dict(FAMILIES), dict(BUILDERS)
    yield
    for registered, before in ((FAMILIES, families), (BUILDERS, builders)):
        registered.clear()
        registered.update(before)  # type: ignore[arg-type]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "my_networks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return import_module("my_networks")


def test_a_users_own_network(own: ModuleType, tmp_path: Path) -> None:
    assert list_models("fully*") == ["fully_s", "fully_l"]
    assert list_models()[-2:] == ["fully_s", "fully_l"]
    network = create_model("fully_l", num_classes=3)
    assert isinstance(network, own.Fully)
    assert network.config == {"name": "fully_l", "num_classes": 3, "align_corners": False}
    assert network(torch.zeros(1, 3, 17, 18)).shape == (1, 3, 17, 18)
    with pytest.raises(UnknownNameError, match="did you mean fully_s"):
        create_model("fully_t")
    with pytest.raises(UnknownNameError, match="did you mean num_classes"):
        create_model("fully_s", num_clases=3)


def test_files_and_checkpoints_of_a_users_own_network(own: ModuleType, tmp_path: Path) -> None:
    network = create_model("fully_l", num_classes=11)
    save_weights(network, tmp_path / "own.safetensors")
    task = SegmentationTask(network, CAMVID)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    for file in ("own.safetensors", "best.ckpt"):
        again = create_model(from_file=tmp_path / file)
        assert again.config == network.config
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))
        report = load_weights(create_model("fully_l", num_classes=3), tmp_path / file, reinit_head=True)
        assert report.initialised == ("classify.weight", "classify.bias")
        with pytest.raises(WeightsError, match=r"widen\.weight has shape"):
            load_weights(create_model("fully_s", num_classes=11), tmp_path / file)
    assert type(Predictor.from_checkpoint(tmp_path / "best.ckpt", device="cpu").network) is own.Fully


def test_registering_needs_no_torch() -> None:
    script = "import sys, hrseg; hrseg.register('one', dict, title='One'); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


class Single(Segmenter):
    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.num_classes, self.align_corners = num_classes, False
        self.head = nn.Conv2d(3, num_classes, 1)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images,)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(images)}


def test_a_network_of_one_size() -> None:
    register("single", Single, title="One layer")
    assert type(create_model("single", num_classes=5)) is Single
    register("single", partial(Single, num_classes=4), title="One layer")  # a notebook cell that is run again
    assert create_model("single").config == {"name": "single", "num_classes": 4}


def test_names_are_not_taken_twice() -> None:
    with pytest.raises(ConfigError, match="a network hrnetv2_w18 is registered already; give hrnetv2_w18 another name"):
        register("hrnetv2_w18", Single, title="Mine")
    with pytest.raises(ConfigError, match="registered already"):
        register("hrnetv2_SIZE", Single, {"w48": 3}, title="Mine")
    with pytest.raises(TypeError, match="titel"):
        register("mine", Single, title="Mine", titel="Mine")
    assert type(create_model("hrnetv2_w18_small_v1")) is HRNetV2


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: str(family.name))
def test_rows_of_hrseg_are_complete(family: Family) -> None:
    assert family.backbone is not None
    assert all((family.title, family.authors, family.arxiv))
    with torch.device("meta"):
        network = create_model(next(iter(family.networks)))
    keys = network.state_dict()
    assert {*family.head_keys, family.classes_key or "conv1.weight"} <= set(keys)
    assert not family.backbone.block_key or family.backbone.block_key in keys
    assert {key.split(".")[0] for key in keys} >= set(network.head_names)
    shapes = {key: tuple(value.shape) for key, value in keys.items()}
    found = family.backbone.read(shapes)
    assert found is not None
    size, arguments = found
    arguments |= family.head_arguments(shapes)
    assert family.name.replace("SIZE", size) == network.config["name"]
    assert arguments == {key: network.config.get(key, value) for key, value in arguments.items()}
