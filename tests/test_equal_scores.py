"""Scores and predictions do not depend on how many processes make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from hrseg.callbacks import PredictionFiles, ScoreTables
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.inference.certainty import CertaintyOptions
from hrseg.task import SegmentationTask
from hrseg.utils.images import read_label, write_image
from tests.processes import exit_codes, start

NUMBERS = (5, 6, 7)


def run(root: Path, out: Path, devices: int) -> None:
    """Validates, tests and predicts splits of 5, 6 and 7 images; writes the scores and the label maps."""
    for number in NUMBERS:
        data = CamVidDataModule(root / str(number), 1, (32, 32), predict_split="val", num_workers=0, eval_batch_size=2)
        torch.manual_seed(0)
        task = SegmentationTask("hrnetv2_w18_small_v1", data.labels, network_args={"init": "kaiming"})
        folder = out / str(number)
        trainer = Trainer(
            accelerator="cpu",
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            use_distributed_sampler=False,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[PredictionFiles(folder, CertaintyOptions(16, True)), ScoreTables(folder)],
        )
        scores: dict[str, Any] = {}
        for verb in (trainer.validate, trainer.test):
            scores |= verb(task, data, verbose=False)[0]
            scores[f"{verb.__name__} miou"] = task.metrics.compute()["miou"].item()  # in double precision
        trainer.predict(task, data, return_predictions=False)
        if trainer.is_global_zero:
            (folder / "scores.json").write_text(json.dumps(scores))


@pytest.mark.filterwarnings("ignore:It is recommended to use .self.log")  # they are computed from synchronised counts
def test_two_processes_score_and_predict_what_one_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in NUMBERS:
        for frame in range(number):
            root = tmp_path / str(number)
            write_image(root / "val" / f"{frame}.png", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
            write_image(root / "valannot" / f"{frame}.png", rng.integers(0, 12, (48, 64), dtype=np.uint8))
    run(tmp_path, tmp_path / "one", 1)

    script = "from pathlib import Path; from tests.test_equal_scores import run; run(Path('.'), Path('two'), 2)"
    ranks = start(script, 2, tmp_path)
    assert exit_codes(ranks, timeout=300) == [0, 0]

    for number in NUMBERS:
        one, two = (json.loads((tmp_path / way / str(number) / "scores.json").read_text()) for way in ("one", "two"))
        assert two == pytest.approx(one, abs=1e-6)
        assert (two["validate miou"], two["test miou"]) == (one["validate miou"], one["test miou"])  # to the last digit
        for name in ("confusion.png", "iou.csv", "scores.json"):  # of all images, not of the first process's
            one, two = ((tmp_path / way / str(number) / "test" / name).read_bytes() for way in ("one", "two"))
            assert two == one
        assert json.loads(two)["images"] == number
        for frame in range(number):
            maps = [read_label(tmp_path / way / str(number) / "labels" / f"{frame}.png") for way in ("one", "two")]
            assert np.array_equal(*maps)
            folders = [tmp_path / way / str(number) for way in ("one", "two")]
            shades = [cv2.imread(str(folder / f"confidence/{frame}.png"), cv2.IMREAD_UNCHANGED) for folder in folders]
            assert all(shade.dtype == np.uint16 for shade in shades)
            np.testing.assert_allclose(*(shade / 65535 for shade in shades), atol=1e-4)  # batches differ
            found = [np.load(folder / f"probabilities/{frame}.npz")["probabilities"] for folder in folders]
            np.testing.assert_allclose(*found, atol=1e-3)
        for kind in ("labels", "overlays", "confidence", "probabilities"):
            assert len(list((tmp_path / "two" / str(number) / kind).iterdir())) == number
