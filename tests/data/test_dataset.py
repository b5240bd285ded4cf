from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from hrseg.data.dataset import Sample, SegmentationDataset
from hrseg.data.labels import LabelTable
from hrseg.data.loader import SegmentationLoader, collate, start_worker
from hrseg.data.samplers import EpochSampler, SampleKey
from hrseg.data.transforms import HorizontalFlip, RandomScaleCrop
from hrseg.errors import ConfigError, DataFileError, FileSystemError, LabelRangeError
from hrseg.utils import signals
from hrseg.utils.images import write_image

TABLE = LabelTable("Toy", ("a", "b"), ((0, 0, 0), (1, 1, 1)), label_ids=(10, 20), void_ids=(0,))


def augment(*more: A.BasicTransform | A.BaseCompose) -> A.Compose:
    return A.Compose([RandomScaleCrop((32, 48)), HorizontalFlip(), *more])


def with_noise() -> A.Compose:
    """Transforms with every kind of randomness in albumentations: both generators, nested, seeds drawn for later."""
    return augment(
        A.ColorJitter(p=0.5),
        A.OneOf([A.GaussNoise(p=1.0), A.GaussianBlur(p=1.0)], p=0.7),
        A.SomeOf([A.RandomBrightnessContrast(), A.ShotNoise(p=1.0), A.RandomGamma()], n=2),
        A.Sequential([A.CoarseDropout(fill="random", p=0.5), A.GridDistortion(fill_mask=255, p=0.5)], p=0.8),
    )


def batches(
    dataset: SegmentationDataset, workers: int, epoch: int = 0, method: str | None = None, timeout: float = 0
) -> list[Any]:
    sampler = EpochSampler(dataset, seed=7)
    sampler.set_epoch(epoch)
    loader = SegmentationLoader(
        dataset,
        batch_size=2,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=partial(start_worker, signals.watched),
        multiprocessing_context=method,
        timeout=timeout,
    )
    return list(loader)


def assert_equal_batches(one: Sequence[Any], two: Sequence[Any]) -> None:
    assert [batch["name"] for batch in one] == [batch["name"] for batch in two]
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["target"], second["target"])


def test_an_item_is_what_is_on_disk_with_train_ids(samples: list[Sample]) -> None:
    item = SegmentationDataset(samples, TABLE)[2]
    image = cv2.cvtColor(cv2.imread(str(samples[2].image)), cv2.COLOR_BGR2RGB)
    label = cv2.imread(str(samples[2].label), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(item["image"].permute(1, 2, 0).numpy(), image)
    np.testing.assert_array_equal(item["target"].numpy(), np.select([label == 10, label == 20], [0, 1], 255))
    assert (item["name"], item["size"]) == ("n2", (40, 60))
    assert item["image"].dtype == item["target"].dtype == torch.uint8


def test_train_ids_on_disk_are_taken_as_they_are(samples: list[Sample]) -> None:
    mapped = SegmentationDataset(samples, TABLE)[0]["target"]
    write_image(samples[0].label, mapped.numpy())
    again = SegmentationDataset([samples[0]._replace(holds_train_ids=True)], TABLE)[0]["target"]
    assert torch.equal(mapped, again)


def test_an_image_without_label_has_no_target(samples: list[Sample]) -> None:
    unlabelled = [sample._replace(label=None) for sample in samples]
    assert "target" not in SegmentationDataset(unlabelled, TABLE)[0]
    batch = batches(SegmentationDataset(unlabelled, TABLE, augment()), 0)[0]
    assert set(batch) == {"image", "name", "size"}


def test_a_batch_is_channels_last_without_a_copy(samples: list[Sample]) -> None:
    batch = batches(SegmentationDataset(samples, TABLE, augment()), 0)[0]
    assert batch["image"].shape == (2, 3, 32, 48)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["target"].shape == (2, 32, 48)
    assert batch["size"] == [(40, 60), (40, 60)]


def test_a_sample_depends_on_seed_epoch_and_index_alone(samples: list[Sample]) -> None:
    dataset = SegmentationDataset(samples, TABLE, with_noise(), seed=1)
    first = dataset[SampleKey(3, 4)]
    dataset[SampleKey(0, 0)]  # advances every generator
    assert torch.equal(dataset[SampleKey(3, 4)]["image"], first["image"])
    others = [
        dataset[SampleKey(4, 4)],
        SegmentationDataset(samples, TABLE, with_noise(), seed=2)[SampleKey(3, 4)],
    ]
    for other in others:
        assert not torch.equal(other["image"], first["image"])
    assert torch.equal(dataset[4]["image"], dataset[SampleKey(0, 4)]["image"])


def test_flip_and_scale_are_drawn_independently(samples: list[Sample]) -> None:
    """Compose.set_random_seed gives all transforms the same stream, which makes the flip depend on the scale."""
    crop, flip = RandomScaleCrop((32, 48)), A.HorizontalFlip(p=0.5)
    dataset = SegmentationDataset(samples[:1], TABLE, A.Compose([A.NoOp(p=0.5), crop, flip]))
    drawn = set()
    for epoch in range(300):
        dataset[SampleKey(epoch, 0)]
        drawn.add((crop.get_applied_params()["scaled_size"], bool(flip.get_applied_params())))
    assert len(drawn) == 17 * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(samples: list[Sample], workers: int) -> None:
    dataset = SegmentationDataset(samples, TABLE, with_noise())
    for epoch in (0, 1):
        assert_equal_batches(batches(dataset, 0, epoch), batches(dataset, workers, epoch))


def test_spawned_workers_give_the_same_samples(samples: list[Sample]) -> None:
    dataset = SegmentationDataset(samples, TABLE, with_noise())
    method = "spawn" if "spawn" in multiprocessing.get_all_start_methods() else None
    assert_equal_batches(batches(dataset, 0), batches(dataset, 1, method=method))


def test_an_input_size_resizes_images_but_not_labels(samples: list[Sample]) -> None:
    plain = SegmentationDataset(samples, TABLE)[0]
    scored = SegmentationDataset(samples, TABLE, input_size=(33, 47))[0]
    pixels = cv2.resize(plain["image"].permute(1, 2, 0).numpy(), (47, 33), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(scored["image"].permute(1, 2, 0).numpy(), pixels)
    assert torch.equal(scored["target"], plain["target"])
    assert scored["size"] == (40, 60)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def spoil_value(path: Path) -> None:
    write_image(path, np.full((40, 60), 34, np.uint8))


def spoil_size(path: Path) -> None:
    write_image(path, np.zeros((60, 40), np.uint8))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (truncate, DataFileError, r"3_label.png is truncated"),
        (spoil_value, LabelRangeError, r"value 34 \(2400 pixels\) in .*3_label.png; Toy has label ids 0, 10, 20, 255"),
        (spoil_size, DataFileError, r"3_label.png is 60x40 and its image .*3.png is 40x60"),
    ],
)
def test_an_unusable_file_ends_the_run_with_a_one_line_error(
    samples: list[Sample], workers: int, spoil: Any, kind: type[Exception], message: str
) -> None:
    spoil(samples[3].label)
    with pytest.raises(kind, match=message) as caught:
        batches(SegmentationDataset(samples, TABLE, augment()), workers)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)  # a worker's traceback would have many


def test_a_loader_can_be_used_again_after_an_error(samples: list[Sample]) -> None:
    content = samples[3].image.read_bytes()
    truncate(samples[3].image)
    dataset = SegmentationDataset(samples, TABLE)
    loader = SegmentationLoader(dataset, batch_size=1, num_workers=1, persistent_workers=True, collate_fn=collate)
    with pytest.raises(DataFileError):
        list(loader)
    samples[3].image.write_bytes(content)
    assert [batch["name"] for batch in loader] == [[sample.name] for sample in samples]
    loader.end_workers()


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_in_training_takes_the_next_sample(
    samples: list[Sample], workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    truncate(samples[3].image)
    spoil_value(samples[4].label)
    dataset = SegmentationDataset(samples, TABLE, augment(), on_error="skip")
    seen = batches(dataset, workers) + batches(dataset, workers, epoch=1)
    assert sorted(name for batch in seen for name in batch["name"]) == sorted(["n0", "n1", "n2", "n5", "n5", "n5"] * 2)
    assert dataset.skipped.tolist() == [False, False, False, True, True, False]
    if workers == 0:
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
        assert_equal_batches(batches(dataset, 0), batches(dataset, 2))


@pytest.mark.parametrize("workers", [0, 1])
def test_skipping_in_evaluation_leaves_samples_out(samples: list[Sample], workers: int) -> None:
    for number in (0, 1, 3):
        truncate(samples[number].image)
    dataset = SegmentationDataset(samples, TABLE, on_error="skip")
    loader = SegmentationLoader(dataset, batch_size=2, collate_fn=collate, num_workers=workers)
    assert [batch["name"] for batch in loader] == [["n2"], ["n4", "n5"]]
    assert dataset.skipped.sum() == 3


def test_skipping_ends_when_nothing_is_left(samples: list[Sample]) -> None:
    for sample in samples:
        truncate(sample.image)
    with pytest.raises(DataFileError, match="none of the 6 samples can be used"):
        batches(SegmentationDataset(samples, TABLE, augment(), on_error="skip"), 0)
    dataset = SegmentationDataset(samples, TABLE, on_error="skip")
    assert list(SegmentationLoader(dataset, collate_fn=collate)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unavailable_file_system_is_not_skipped(
    samples: list[Sample], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrseg.utils.images._PAUSES", ())
    samples[1].image.unlink()
    samples[1].image.symlink_to("/proc/self/mem")  # whose first byte gives an input/output error
    with pytest.raises(FileSystemError, match=r"1\.png cannot be read: Input/output error"):
        batches(SegmentationDataset(samples, TABLE, augment(), on_error="skip"), workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_transforms_that_change_the_dtype_are_named(samples: list[Sample], workers: int) -> None:
    with pytest.raises(ConfigError, match="turned the image into float32; expected uint8 throughout"):
        batches(SegmentationDataset(samples, TABLE, augment(A.Normalize())), workers)


@pytest.mark.parametrize("input_size", [None, (80, 60)])
def test_a_crop_is_centred_on_the_given_position(samples: list[Sample], input_size: tuple[int, int] | None) -> None:
    """The centre is a position in the file, also if the image is flipped and resized first."""
    label = np.full((40, 60), 10, np.uint8)
    label[28:32, 16:20] = 20
    assert samples[0].label is not None
    write_image(samples[0].label, label)
    crop = RandomScaleCrop((16, 16), None, (1.0, 1.0))
    steps = [crop] if input_size is None else [HorizontalFlip(p=1.0), A.Resize(*input_size), crop]
    dataset = SegmentationDataset(samples, TABLE, A.Compose(steps))
    target = dataset[SampleKey(0, 0, (30, 18))]["target"].numpy()
    rows, columns = np.nonzero(target == 1)
    assert (rows.mean(), columns.mean()) == pytest.approx((7.5, 7.5), abs=1.0)
