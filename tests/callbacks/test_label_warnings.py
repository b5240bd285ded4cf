"""Labels that teach or score nothing used to give a loss of 0.0 and an mIoU of nan or 0.1 without a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hrseg.callbacks import LabelWarnings
from hrseg.callbacks.label_warnings import _weight_warnings
from hrseg.data.labels import LabelTable
from hrseg.losses import CrossEntropyLoss
from hrseg.task import SegmentationTask
from tests.task.test_segmentation import TABLE, OneConv, trainer

NAMES = ("a", "b", "c")


def loader(*values: int) -> DataLoader[Any]:
    """Two batches of an image of 8x8 pixels whose label holds these values in turn."""
    target = torch.tensor(values, dtype=torch.uint8).repeat(64 // len(values) + 1)[:64].view(1, 8, 8)
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    batch = {"image": image, "target": target, "name": ["x"]}
    return DataLoader([batch, batch], batch_size=None)  # type: ignore[arg-type]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name.endswith("label_warnings")]


def run(train: DataLoader[Any], val: DataLoader[Any], *, labels: LabelTable = TABLE, **options: Any) -> None:
    network = nn.Conv2d(3, labels.num_classes, 1)
    trainer_options = {name: options.pop(name) for name in list(options) if name.startswith("limit_")}
    task = SegmentationTask(network, labels, **options)
    trainer(max_epochs=2, callbacks=[LabelWarnings()], num_sanity_val_steps=0, **trainer_options).fit(task, train, val)


pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".*does not have many workers", ".*smaller than the logging", ".*It is recommended to use")
]


def test_labels_that_are_all_ignored(caplog: pytest.LogCaptureFixture) -> None:
    run(loader(255), loader(255))
    of_val, of_training = told(caplog)
    assert "val: all pixels of the 2 labels are ignored (255), and the scores are meaningless" in of_val
    assert "all 128 pixels of the training crops in the first epoch are ignored (255)" in of_training


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # on purpose
def test_a_task_without_scores_gets_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """`all pixels of the 0 labels are ignored`, where the user's validation step does not update the metrics."""

    class Unscored(SegmentationTask):
        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    task = Unscored(nn.Conv2d(3, TABLE.num_classes, 1), TABLE)
    trainer(max_epochs=1, callbacks=[LabelWarnings()], num_sanity_val_steps=0).fit(task, loader(0, 1, 2), loader(0))
    assert told(caplog) == []


def test_classes_that_never_occur(caplog: pytest.LogCaptureFixture) -> None:
    run(loader(0, 255), loader(0, 1))
    of_val, of_training = told(caplog)
    assert "val: 1 of 3 classes never occur (c) among the 128 labelled pixels of 2 images" in of_val
    assert of_val.endswith("such a class is left out of the means")
    assert "2 of 3 classes never occur (b, c) among the 64 labelled pixels of the training crops" in of_training


def test_no_warning_for_good_labels_or_a_part_of_them(caplog: pytest.LogCaptureFixture) -> None:
    run(loader(0, 1, 2, 255), loader(2, 1, 0))
    run(loader(0), loader(1), limit_train_batches=1, limit_val_batches=1)
    assert told(caplog) == []


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_an_epoch_that_a_restart_resumes_is_a_part(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    task = SegmentationTask(OneConv(), TABLE)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    first = trainer(max_epochs=1, limit_val_batches=0, callbacks=[keep], enable_checkpointing=True)
    first.fit(task, loader(1, 2), loader(1))
    second = trainer(max_epochs=1, limit_val_batches=0, callbacks=[LabelWarnings(), keep], enable_checkpointing=True)
    second.fit(task, loader(0), loader(1), ckpt_path=tmp_path / "step=1.ckpt")
    assert second.global_step == 2
    assert told(caplog) == []


def test_a_single_class(caplog: pytest.LogCaptureFixture) -> None:
    run(loader(0), loader(0), labels=LabelTable("one", ("a",), ((0, 0, 0),)))
    (text,) = told(caplog)
    assert text == (
        "the training loss was 0 in every step of the first epoch, and nothing is learnt: "
        "with one class there is nothing to tell apart"
    )


def test_class_weights_that_leave_classes_out(caplog: pytest.LogCaptureFixture) -> None:
    run(loader(0, 1, 2, 2), loader(0, 1, 2), loss=CrossEntropyLoss([0.0, 1.0, 1e30]))
    assert told(caplog) == [
        "class weights of 0 leave out 32 of 128 labelled pixels: a",
        "class weights give c, 64 of 128 labelled pixels, more than 99.9% of the weight (1e+30): "
        "the other classes hardly count",
    ]


@pytest.mark.parametrize(
    ("pixels", "weights"),
    [
        ([10, 10, 10], (1.0, 1.0, 1.0)),
        ([10_000, 1, 1], (1.0, 1.0, 1.0)),  # by the data
        ([10, 10, 0], (1.0, 1.0, 1e30)),  # a class that never occurs
        ([0, 10, 10], (0.0, 1.0, 1.0)),
        ([0, 0, 0], (1.0, 1.0, 1e30)),
        ([1000, 100, 1], (0.1, 1.0, 100.0)),
    ],
)
def test_weights_that_do_no_harm(pixels: list[int], weights: tuple[float, ...]) -> None:
    assert list(_weight_warnings(NAMES, pixels, weights)) == []


def test_the_labels_are_counted_without_a_look_at_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    callback, task, batch = LabelWarnings(), SegmentationTask(OneConv(), TABLE), next(iter(loader(0, 1)))
    looks: list[str] = []
    for name in ("item", "tolist", "cpu", "__bool__"):
        monkeypatch.setattr(Tensor, name, lambda self, *_, name=name: looks.append(name))
    callback.on_train_batch_end(None, task, {"loss": torch.ones(())}, batch, 0)  # type: ignore[arg-type]
    assert looks == []
