from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import SequentialSampler

from hrseg import (
    CamVidDataModule,
    CityscapesDataModule,
    LIPDataModule,
    PascalContextDataModule,
    SegmentationDataModule,
)
from hrseg.data.dataset import Sample
from hrseg.data.labels import LabelTable
from hrseg.data.samplers import EpochSampler, EvalSampler
from hrseg.data.transforms import HorizontalFlip, RandomScaleCrop
from hrseg.errors import ConfigError, DataFileError, DataNotFoundError, HrsegError, TrainingError, UnknownNameError
from hrseg.utils.images import write_image
from tests.references import augmentation


class Listener(LightningModule):
    """Trains nothing and records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[tuple[str, ...]]] = {"train": [], "val": [], "test": [], "predict": []}
        self.sums: list[float] = []

    def training_step(self, batch: dict[str, Any]) -> Tensor:
        self.seen["train"].append(tuple(batch["name"]))
        self.sums.append(float(batch["image"].sum()))
        return self.scale * 0

    def validation_step(self, batch: dict[str, Any]) -> None:
        self.seen["val"].append(tuple(batch["name"]))

    def test_step(self, batch: dict[str, Any]) -> None:
        self.seen["test"].append(tuple(batch["name"]))

    def predict_step(self, batch: dict[str, Any]) -> Tensor:
        assert "target" not in batch
        self.seen["predict"].append(tuple(batch["name"]))
        return self.scale

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **quiet, **options)


def camvid(root: Path, **settings: Any) -> CamVidDataModule:
    return CamVidDataModule(root, **{"batch_size": 2, "crop_size": (32, 40), "num_workers": 0, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_size": (31, 64)}, r"data\.crop_size is \(31, 64\); expected 32 or more per side"),
        ({"batch_size": 0}, r"data\.batch_size is 0; expected 1 or more"),
        ({"eval_batch_size": 0}, r"data\.eval_batch_size is 0"),
        ({"base_size": 0}, r"data\.base_size is 0"),
        ({"scale_range": (2.0, 0.5)}, r"data\.scale_range is \(2\.0, 0\.5\); expected the smaller factor first"),
        ({"scale_range": (0.0, 0.5)}, r"data\.scale_range"),
        ({"scale_step": 0.0}, r"data\.scale_step"),
        ({"flip_probability": 1.5}, r"data\.flip_probability is 1\.5; expected 0 to 1"),
        ({"color_jitter": -0.1}, r"data\.color_jitter"),
        ({"num_workers": -1}, r"data\.num_workers is -1; expected 0 to 256"),
        ({"num_workers": 100_000}, r"data\.num_workers is 100000; expected 0 to 256"),
        ({"crop_size": (5_000_000, 5_000_000)}, r"data\.crop_size .* no more pixels than images may have"),
        ({"input_size": (5_000_000, 5_000_000)}, r"data\.input_size .* no more pixels than images may have"),
        ({"seed": -1}, r"data\.seed"),
        ({"seed": 10**30}, r"data\.seed .* expected 0 to 4294967295"),
        ({"on_error": "ignore"}, r"data\.on_error is 'ignore'; expected raise or skip"),
        (
            {"transforms": [A.Rotate()]},
            r"Rotate would fill the label with 0.*, which is a class; give it fill_mask 255",
        ),
        ({"transforms": [A.OneOf([A.Sequential([A.Affine()])])]}, r"Affine would fill the label"),
    ],
)
def test_settings_out_of_range_fail_before_any_data_is_read(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        camvid(Path("nowhere"), **settings)


@pytest.mark.parametrize("which", ["train_split", "val_split", "test_split", "predict_split"])
def test_an_unknown_split_fails_before_any_data_is_read(which: str) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown split of CamVid 'vall'; did you mean val"):
        camvid(Path("nowhere"), **{which: "vall"})


def test_classes_are_known_before_any_data_is_read() -> None:
    data = camvid(Path("nowhere"))
    assert (data.num_classes, data.ignore_index, data.labels.name) == (11, 255, "CamVid")


def test_a_missing_root_says_where_it_looked_what_it_expected_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        camvid(tmp_path / "gone").setup("fit")
    message = str(caught.value)
    assert str(tmp_path / "gone") in message
    assert "SPLIT/*.png" in message
    assert "https://" in message
    assert "\n" not in message


def test_an_empty_split_is_named(camvid_root: Path) -> None:
    data = camvid(camvid_root)
    with pytest.raises(DataNotFoundError, match=r"no image of CamVid test in .*camvid; expected SPLIT/\*\.png"):
        data.setup("predict")
    data.setup("validate")


def test_an_image_without_label_is_named_where_labels_are_needed(camvid_root: Path) -> None:
    (camvid_root / "valannot" / "0001.png").unlink()
    with pytest.raises(DataNotFoundError, match=r"1 of 2 images of CamVid val have no label, .*0001\.png; expected"):
        camvid(camvid_root).setup("validate")
    with pytest.raises(DataNotFoundError, match="have no label"):
        camvid(camvid_root).setup("fit")
    data = camvid(camvid_root, predict_split="val")
    data.setup("predict")
    assert len(list(data.predict_dataloader())) == 2
    with pytest.raises(DataNotFoundError, match="have no label"):
        data.setup("test")


def test_without_a_test_split_predict_takes_the_validation_split(camvid_root: Path) -> None:
    class NoTest(CamVidDataModule):
        splits = ("train", "val")

    assert NoTest(camvid_root, 1, (32, 32)).predict_split == "val"
    assert NoTest(camvid_root, 1, (32, 32), val_split="train").predict_split == "train"
    assert camvid(camvid_root).predict_split == "test"


def test_two_images_of_the_same_name_are_reported(camvid_root: Path) -> None:
    class ByFolder(CamVidDataModule):
        def find_samples(self, split: str) -> list[Sample]:
            return [sample._replace(name=split) for sample in super().find_samples(split)[:2]]

    data = ByFolder(camvid_root, 1, (32, 32))
    with pytest.raises(DataFileError, match=r"0000\.png and .*0001\.png are both named val in CamVid val; expected"):
        data.setup("validate")


def test_a_partial_copy_is_logged(camvid_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = camvid(camvid_root)
    data.setup("fit")
    data.setup("validate")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "CamVid train has 5 images, the complete data set 367" in caplog.text


def test_fewer_images_than_a_step_takes_is_an_error(camvid_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"5 images, fewer than a step takes \(batch_size 6 x 1 ranks\)"):
        camvid(camvid_root, batch_size=6).setup("fit")


def test_training_sees_crops_and_evaluation_whole_images(camvid_root: Path) -> None:
    data = camvid(camvid_root, predict_split="val", eval_batch_size=2)
    data.setup("fit")
    data.setup("predict")
    assert [batch["image"].shape for batch in data.train_dataloader()] == [(2, 3, 32, 40)] * 2
    for loader in (data.val_dataloader(), data.predict_dataloader()):
        (batch,) = loader
        assert batch["image"].shape == (2, 3, 48, 64)
        assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    image = cv2.cvtColor(cv2.imread(str(camvid_root / "val" / "0001.png")), cv2.COLOR_BGR2RGB)
    assert torch.equal(batch["image"][1].permute(1, 2, 0), torch.from_numpy(image))


def test_the_augmentation_follows_the_settings() -> None:
    settings = {"base_size": 70, "scale_range": (0.8, 1.2), "scale_step": 0.2, "flip_probability": 0.25}
    crop, flip = camvid(Path("nowhere"), **settings).augmentation().transforms
    assert isinstance(crop, RandomScaleCrop)
    assert isinstance(flip, HorizontalFlip)
    assert (crop.crop_size, crop.base_size, crop.scale_range, crop.scale_step) == ((32, 40), 70, (0.8, 1.2), 0.2)
    assert (crop.ignore_index, flip.p, flip.flip_pairs) == (255, 0.25, ())
    (crop, *_) = camvid(Path("nowhere"), aspect_range=(0.9, 1.1)).augmentation().transforms
    assert crop.aspect_range == (0.9, 1.1)
    more = camvid(Path("nowhere"), color_jitter=0.4, transforms=[A.Blur(p=1.0)]).augmentation().transforms
    assert [type(step) for step in more[2:]] == [A.ColorJitter, A.Blur]
    assert more[2].brightness == pytest.approx((0.6, 1.4))
    assert more[2].hue == pytest.approx((-0.1, 0.1))


@pytest.mark.parametrize("mirrored", [0.0, 1.0])
@pytest.mark.parametrize(
    ("data", "official"),
    [
        (CityscapesDataModule("nowhere", 1, (64, 64), 96, (0.5, 2.1)), augmentation.plain),
        (PascalContextDataModule("nowhere", 1, (64, 64), base_size=72, scale_range=(0.5, 2.1)), augmentation.plain),
        (LIPDataModule("nowhere", 1, (64, 64), (64, 64), base_size=64, scale_range=(0.5, 1.6)), augmentation.lip),
    ],
    ids=["cityscapes", "pascal_context", "lip"],
)
def test_crops_equal_the_official_ones_flipped_or_not(
    data: SegmentationDataModule, official: Callable[..., augmentation.Pair], mirrored: float
) -> None:
    """Regression: flipped LIP crops below scale 1 were padded on the left."""
    rng = np.random.default_rng(0)
    image = cv2.blur(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8), (5, 5))
    label = rng.integers(0, data.num_classes, (50, 40), dtype=np.uint8)
    data.flip_probability = mirrored
    pipeline = data.augmentation()
    crop = next(step for step in pipeline.transforms if isinstance(step, RandomScaleCrop))
    for number in range(12):
        pipeline.set_random_seed(number)
        sample = pipeline(image=image, mask=label)
        draws = crop.get_applied_params()
        pixels, target = official(image, label, mirrored == 1, draws["scaled_size"], draws["corner"], 64)
        np.testing.assert_array_equal(sample["mask"], target)
        assert np.abs(sample["image"].astype(int) - pixels).max() <= 1


def test_rare_classes_are_seen_in_every_crop_that_is_drawn_by_class(
    camvid_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    for path in (camvid_root / "trainannot").iterdir():
        write_image(path, np.zeros((48, 64), np.uint8))
    rare = np.zeros((48, 64), np.uint8)
    rare[30:34, 10:14] = 9
    write_image(camvid_root / "trainannot" / "0003.png", rare)
    data = camvid(camvid_root, class_uniform=1.0, batch_size=5, scale_range=(1.0, 1.0))
    data.setup("fit")
    loader = data.train_dataloader()
    seen = 0
    for epoch in range(20):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        (batch,) = loader
        seen += int((batch["target"] == 9).flatten(1).any(1).sum())
    assert seen / 100 > 0.4  # of 2 classes; crops of the other one sometimes contain it, too


def test_an_extra_split_is_mixed_in(cityscapes_root: Path) -> None:
    data = CityscapesDataModule(
        cityscapes_root, batch_size=1, crop_size=(64, 64), num_workers=0, extra_split="train_extra", extra_ratio=0.2
    )
    data.setup("fit")
    loader = data.train_dataloader()
    names = [name for batch in loader for name in batch["name"]]
    assert len(loader) == len(names) == 7
    assert sum(name.startswith("erlangen") for name in names) == 1
    with pytest.raises(UnknownNameError, match="unknown split of Cityscapes 'coarse'"):
        CityscapesDataModule(cityscapes_root, batch_size=1, crop_size=(64, 64), extra_split="coarse")


def test_the_class_pairs_of_the_table_reach_the_flip(camvid_root: Path) -> None:
    class Sided(CamVidDataModule):
        labels = LabelTable("Sided", ("a", "b"), ((0, 0, 0),) * 2, flip_pairs=((0, 1),))

    flip = Sided(camvid_root, 2, (32, 32)).augmentation().transforms[1]
    assert flip.flip_pairs == ((0, 1),)


def test_num_workers_defaults_to_the_rank_s_share_of_cores() -> None:
    workers = camvid(Path("nowhere"), num_workers=None)._sensible_workers()
    assert 2 <= workers <= 8


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Python's own choice")
def test_workers_are_forked(camvid_root: Path) -> None:
    data = camvid(camvid_root, num_workers=1)
    data.setup("validate")
    assert data.val_dataloader().multiprocessing_context.get_start_method() == "fork"


def test_lightning_keeps_the_samplers_and_moves_the_epoch_on(camvid_root: Path) -> None:
    data, listener, fit = camvid(camvid_root), Listener(), trainer(max_epochs=3)
    fit.fit(listener, datamodule=data)
    assert isinstance(fit.train_dataloader.sampler, EpochSampler)
    assert isinstance(fit.val_dataloaders.sampler, EvalSampler)
    epochs = [listener.seen["train"][start : start + 2] for start in (0, 2, 4)]
    assert len({str(epoch) for epoch in epochs}) == 3
    again = Listener()
    trainer(max_epochs=3).fit(again, datamodule=camvid(camvid_root))
    assert (again.seen, again.sums) == (listener.seen, listener.sums)
    assert listener.seen["val"] == [("0000",), ("0001",)] * 3


def test_one_seed_decides_order_and_augmentation_too(camvid_root: Path) -> None:
    """Regression: `--seed_everything 1` left `data.seed` at the recipe's 304, so seeds shared their augmentation."""

    def sums(everything: int, **settings: Any) -> list[float]:
        seed_everything(everything)
        listener = Listener()
        trainer(max_epochs=1).fit(listener, camvid(camvid_root, batch_size=1, **settings))
        return listener.sums

    assert sums(1) == sums(1) == sums(9, seed=1)
    assert sums(1) != sums(2)
    data = camvid(camvid_root, batch_size=1)  # a data module takes the seed of each training
    seen = []
    for seed in (1, 2):
        seed_everything(seed)
        listener = Listener()
        trainer(max_epochs=1).fit(listener, data)
        seen.append(listener.sums)
    assert seen == [sums(1), sums(2)]


def test_a_restart_keeps_the_seed_of_its_checkpoint_unless_one_is_given(camvid_root: Path) -> None:
    data = camvid(camvid_root)
    data.setup("fit")
    data.load_state_dict({"seed": 5})
    assert data.train_dataloader().sampler.seed == 5  # type: ignore[attr-defined]
    assert data.state_dict() == {"seed": 5}
    data = camvid(camvid_root, seed=3)
    data.setup("fit")
    data.load_state_dict({"seed": 5})
    assert data.train_dataloader().sampler.seed == 3  # type: ignore[attr-defined]


def test_ranks_share_the_seed_of_the_first(camvid_root: Path) -> None:
    """`torch.initial_seed` differs between ranks once a training has seeded each of its steps."""
    data = camvid(camvid_root)
    data.trainer = fake_trainer(1, 2)  # type: ignore[assignment]
    data.trainer.strategy = SimpleNamespace(broadcast=lambda seed: 11)  # type: ignore[union-attr]
    data.setup("fit")
    assert data.train_dataloader().sampler.seed == 11  # type: ignore[attr-defined]


def fake_trainer(rank: int, world_size: int, batches_done: int = 0) -> SimpleNamespace:
    progress = SimpleNamespace(current=SimpleNamespace(completed=batches_done))
    loops = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    strategy = SimpleNamespace(broadcast=lambda seed: seed)
    facts = {"global_rank": rank, "world_size": world_size, "num_devices": 1, "overfit_batches": 0.0}
    return SimpleNamespace(**facts, fit_loop=loops, strategy=strategy)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_epoch_resumes_where_it_was_interrupted(rank: int, camvid_root: Path) -> None:
    names = []
    for batches_done in (0, 1):
        data = camvid(camvid_root, batch_size=1)
        data.trainer = fake_trainer(rank, 2, batches_done)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(3)
        assert len(loader) == 2
        names.append([batch["name"] for batch in loader])
    assert names[1] == names[0][1:]


def test_two_ranks_together_load_the_samples_of_one_process(camvid_root: Path) -> None:
    def batches(rank: int, world_size: int, batch_size: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        data = camvid(camvid_root, batch_size=batch_size)
        data.trainer = fake_trainer(rank, world_size)
        data.setup("fit")
        train = data.train_dataloader()
        train.sampler.set_epoch(3)
        return list(train), list(data.val_dataloader())

    (alone, _), ranks = batches(0, 1, 4), [batches(rank, 2, 2) for rank in range(2)]
    samples = {name: image for batch in alone for name, image in zip(batch["name"], batch["image"], strict=True)}
    assert len(samples) == 4
    shared = [
        (name, image) for train, _ in ranks for b in train for name, image in zip(b["name"], b["image"], strict=True)
    ]
    assert {name for name, _ in shared} == set(samples)
    for name, image in shared:
        assert torch.equal(image, samples[name])
    assert [batch["name"] for _, val in ranks for batch in val] == [["0000"], ["0001"]]


def test_every_verb_runs_and_skipped_files_are_left_out(camvid_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (camvid_root / "val" / "0000.png").write_bytes(b"nothing")
    data = camvid(camvid_root, predict_split="val", on_error="skip")
    listener, verbs = Listener(), trainer(max_epochs=1)
    verbs.fit(listener, datamodule=data)
    verbs.validate(listener, datamodule=data)
    verbs.test(listener, datamodule=data)
    verbs.predict(listener, datamodule=data)
    assert listener.seen["val"] == [("0001",)] * 2
    assert listener.seen["test"] == listener.seen["predict"] == [("0001",)]
    assert "skipped 1 of 2 files of CamVid" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_ends_a_run_with_its_own_error(camvid_root: Path, workers: int) -> None:
    (camvid_root / "val" / "0001.png").write_bytes(b"nothing")
    with pytest.raises(DataFileError, match=r"^[^\n]*0001\.png is truncated or no image that can be read[^\n]*$"):
        trainer().validate(Listener(), datamodule=camvid(camvid_root, num_workers=workers))


class StopsValidationWorkers(Callback):
    """Stops the workers of the validation loader in the second and last epoch."""

    def __init__(self) -> None:
        self.workers: list[Any] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.workers = trainer.val_dataloaders._iterator._workers
            for worker in self.workers:
                os.kill(worker.pid, signal.SIGSTOP)
            raise TrainingError("a worker of the other loader hangs")


def test_stopped_workers_of_the_other_loader_do_not_block_exit(
    camvid_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # how long torch waits for a worker
    stops = StopsValidationWorkers()
    with pytest.raises(TrainingError, match="the other loader"):
        trainer(max_epochs=2, callbacks=[stops]).fit(Listener(), datamodule=camvid(camvid_root, num_workers=1))
    was_alive = [worker.is_alive() for worker in stops.workers]
    for worker in stops.workers:
        worker.kill()
    assert was_alive == [False]


def test_overfitting_batches_sees_the_same_crops_each_epoch(camvid_root: Path) -> None:
    listener, fit = Listener(), trainer(max_epochs=3, overfit_batches=1)
    fit.fit(listener, datamodule=camvid(camvid_root))
    assert isinstance(fit.train_dataloader.sampler, SequentialSampler)
    assert listener.seen["train"] == [("0000", "0001")] * 3
    assert len(set(listener.sums)) == 1


def test_the_parameters_can_be_given_as_yaml(tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationDataModule, "data")
    (tmp_path / "data.yaml").write_text(
        """
        data:
          class_path: hrseg.CityscapesDataModule
          init_args:
            root: /data/cityscapes
            batch_size: 3
            crop_size: [512, 1024]
            base_size: 2048
            scale_range: [0.5, 1.6]
            transforms:
              - class_path: albumentations.ColorJitter
                init_args: {brightness: 0.3, p: 0.5}
              - class_path: albumentations.GaussianBlur
        """
    )
    parser.add_argument("--config", action="config")
    data = parser.instantiate(parser.parse_args([f"--config={tmp_path / 'data.yaml'}"])).data
    assert isinstance(data, CityscapesDataModule)
    assert (data.crop_size, data.base_size, data.scale_range, data.eval_batch_size) == (
        (512, 1024),
        2048,
        (0.5, 1.6),
        1,
    )
    assert [type(transform) for transform in data.transforms] == [A.ColorJitter, A.GaussianBlur]


def test_it_can_be_pickled(camvid_root: Path) -> None:
    data = camvid(camvid_root)
    data.setup("fit")
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(next(iter(copy.train_dataloader()))["image"], next(iter(data.train_dataloader()))["image"])


@pytest.mark.parametrize(
    ("defined", "missing"),
    [
        ({"splits": ("train", "val"), "layout": "*.png"}, "labels, origin"),
        ({**vars(CamVidDataModule), "evaluator": "one"}, "evaluate_files"),
    ],
)
def test_an_incomplete_data_module_is_reported(defined: dict[str, Any], missing: str) -> None:
    methods = {"find_samples": lambda self, split: [], "__init__": SegmentationDataModule.__init__}
    names = ("labels", "splits", "layout", "origin", "evaluator")
    own = type("Own", (SegmentationDataModule,), {key: defined[key] for key in names if key in defined} | methods)
    with pytest.raises(ConfigError, match=f"class Own does not define {missing}; see SegmentationDataModule"):
        own("root", 1, (32, 32))


def test_the_base_class_alone_is_not_a_data_set() -> None:
    with pytest.raises(TypeError, match="abstract"):
        SegmentationDataModule("root", 1, (32, 32))  # type: ignore[abstract]
    assert issubclass(DataNotFoundError, HrsegError)
