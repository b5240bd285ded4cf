"""A folder in which the commands of the documentation find what they name: recipes, small data, a run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hrseg.cli import main
from hrseg.models.registry import BUILDERS, FAMILIES
from hrseg.utils.images import write_image
from tests.conftest import write_jpeg
from tests.data.datasets.test_camvid import write_camvid
from tests.data.datasets.test_cityscapes import write_cityscapes
from tests.data.datasets.test_lip import write_lip
from tests.data.datasets.test_pascal_context import write_pascal_context
from tests.docs.blocks import ROOT

TINY = [
    *("--model.network=hrnetv2_w18_small_v1", "--model.weights=null"),
    *("--data.batch_size=2", "--data.crop_size=[64,96]", "--data.num_workers=0"),
    *("--model.warmup_steps=0", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"),
    *("--trainer.check_val_every_n_epoch=1", "--trainer.num_sanity_val_steps=0"),
    *("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.precision=32-true"),
]
TINY_SCENES = ["--data.image_size=[64,128]", *(f"--data.num_{split}=2" for split in ("train", "val", "test"))]


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, images and a run, for pages to copy."""
    root = tmp_path_factory.mktemp("stock")
    write_cityscapes(root / "data" / "cityscapes")
    write_camvid(root / "data" / "camvid")
    write_lip(root / "data" / "lip")
    write_pascal_context(root / "data" / "VOCdevkit" / "VOC2010")
    rng = np.random.default_rng(0)
    for number in range(10):
        write_jpeg(root / f"data/mine/images/day/{number:04d}.jpg", rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
        mask = np.zeros((64, 96), np.uint8)
        mask[10 : 20 + number, 8:40], mask[30:50, 50 : 70 + number] = 3, 7
        write_image(root / f"data/mine/masks/day/{number:04d}.png", mask)
    (root / "data/mine/classes.yaml").write_text("names: [background, left glove, right glove]\nids: [0, 3, 7]\n")
    for name in ("street.jpg", "new_images/0.jpg"):
        write_jpeg(root / name, rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HRSEG_HOME", str(root / "home"))
        patch.delenv("LOCAL_RANK", raising=False)
        options = [f"--config={ROOT / 'experiments' / 'quickstart.yaml'}", *TINY, *TINY_SCENES]
        assert main(["fit", *options, f"--run_dir={root / 'runs/quickstart/0'}"]) == 0
    shutil.copy(root / "runs/quickstart/0/checkpoints/best.ckpt", root)
    return root


@pytest.fixture
def place(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a page, whose own modules and networks are gone afterwards."""
    shutil.copytree(stock, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("home"))
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "constraints.txt").symlink_to(ROOT / "constraints.txt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HRSEG_HOME", str(stock / "home"))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    known = [(table, dict(table)) for table in (FAMILIES, BUILDERS)]
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    for table, rows in known:
        table.clear()
        table.update(rows)
