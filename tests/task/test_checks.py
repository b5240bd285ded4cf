"""One-line errors for mistakes in networks, losses, labels and trainer options, before the first step."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, UnknownNameError
from hrseg.losses import CrossEntropyLoss, WeightedOutputsLoss
from hrseg.models import create_model
from hrseg.task import SegmentationTask
from tests.task.test_segmentation import TABLE, OneConv, batch, trainer

TINY = "hrnetv2_w18_small_v1"


class Gives(nn.Module):
    """Returns what a function makes of its logits."""

    def __init__(self, make: Any, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 1)
        self.make = make

    def forward(self, images: Tensor) -> Any:
        return self.make(self.conv(images))


class Output(dict[str, Tensor]):
    """Like the outputs of transformers."""


@pytest.mark.parametrize(
    "make",
    [
        lambda logits: {"out": logits, "aux": 0.5 * logits},
        lambda logits: Output(logits=logits, hidden_states=None),
        lambda logits: {"out": logits, "loss": logits.mean(), "none": None, "features": logits[:, :1]},
    ],
    ids=["torchvision", "transformers", "more"],
)
def test_a_network_that_gives_a_mapping_was_a_traceback(make: Any) -> None:
    task = SegmentationTask(Gives(make), TABLE)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    given = batch()
    plain = SegmentationTask(OneConv(), TABLE)
    plain.network.load_state_dict(task.network.state_dict())
    plain.log = lambda *_, **__: None  # type: ignore[method-assign]
    assert torch.equal(task.training_step(given, 0), plain.training_step(given, 0))
    assert torch.equal(task(given["image"]), plain(given["image"]))
    scored = [each.validation_step(given, 0)["prediction"] for each in (task, plain)]
    assert all(torch.equal(*pair) for pair in zip(*scored, strict=True))


@pytest.mark.parametrize(
    ("make", "num_classes", "message"),
    [
        (lambda x: x, 2, r"Gives gives 'out' of shape \(2, 2, 32, 32\); expected logits \(2, 3, h, w\)"),
        (lambda x: x, 4, r"'out' of shape \(2, 4, 32, 32\)"),
        (lambda x: x.mean((2, 3)), 3, r"'out' of shape \(2, 3\)"),
        (lambda x: x[:1], 3, r"'out' of shape \(1, 3, 32, 32\)"),
        (lambda x: {"out": x, "aux": x[:, :2]}, 3, r"'aux' of shape \(2, 2, 32, 32\)"),
        (lambda x: (x, x), 3, "Gives returns a tuple; expected logits .* that returns"),
        (lambda x: [x], 3, "Gives returns a list"),
        (lambda x: {"main": x}, 3, "Gives returns a dict of main"),
        (lambda x: None, 3, "Gives returns a NoneType"),
    ],
)
def test_logits_of_another_shape_were_a_traceback(make: Any, num_classes: int, message: str) -> None:
    task = SegmentationTask(Gives(make, num_classes), TABLE)
    with pytest.raises(ConfigError, match=message):
        task.training_step(batch(), 0)
    with pytest.raises(ConfigError, match=message):
        task.validation_step(batch(), 0)


def test_logits_at_another_size_are_upsampled_to_the_labels() -> None:
    task = SegmentationTask(Gives(lambda logits: logits[:, :, ::4, ::3]), TABLE)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    assert task.training_step(batch(), 0).isfinite()
    assert [x.shape for x in task.validation_step(batch(), 0)["prediction"]] == [(32, 32)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": OneConv}, r"the network is the class OneConv; give an instance, OneConv\(\.\.\.\)"),
        ({"network": None}, r"the network is 'None' \(NoneType\); expected a name"),
        ({"network": 18}, r"the network is '18' \(int\)"),
        ({"network": f"{TINY}_cls"}, f"{TINY}_cls is a HRNetClassifier and gives no logits of pixels"),
        ({"network": "hrnetv2p_w18"}, "hrnetv2p_w18 returns feature maps and takes no num_classes; `hrseg models`"),
        ({"network": create_model("hrnetv2p_w18_small_v1")}, "is a HRNetV2p and gives no logits"),
        ({"network": create_model(TINY, 5)}, "a network of 5 classes for the 3 of toy; build it with num_classes=3"),
        ({"loss": CrossEntropyLoss}, "the loss is the class CrossEntropyLoss; give an instance"),
        ({"loss": nn.Conv2d(3, 3, 1)}, "Conv2d is no loss of logits .*takes 2 positional arguments but 3 were given"),
        ({"loss": nn.BCEWithLogitsLoss()}, "BCEWithLogitsLoss is no loss of logits .*: Target size"),
        ({"loss": nn.MSELoss()}, "MSELoss is no loss of logits .*: Using a target size"),
        (
            {"loss": nn.CrossEntropyLoss(reduction="none")},
            "CrossEntropyLoss gives a loss of shape .*expected one number",
        ),
        ({"loss": "ce"}, r"the loss is 'ce' \(str\)"),
        ({"loss": nn.CrossEntropyLoss(torch.ones(5))}, "5 class weights for the 3 classes of toy"),
        ({"labels": ["a", "b"]}, "classes to train on, not list; give labels=data.labels"),
        ({"labels": 3}, "not int; give labels=data.labels"),
        ({"mean": (0.5, 0.5)}, r"mean is \(0.5, 0.5\); expected three numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean is .*nan.*; expected three numbers"),
        ({"std": (0.2, 0.0, 0.2)}, "std is .*; expected three numbers"),
        (
            {"mean": (1e308, 0.0, 0.0)},
            "mean is .*; expected three numbers, from -1000 to 1000: of images with values fro",
        ),
        ({"std": (1e-320, 1.0, 1.0)}, "std is .*; expected three numbers, above 0, from 1e-06 to 1e.06"),
        ({"std": (1e300, 1.0, 1.0)}, "std is .*; expected three numbers"),
        ({"std": 0.2}, "std is 0.2; expected three numbers"),
        ({"optimizer": "sgd"}, r"the optimizer is 'sgd' \(str\); expected a function"),
        ({"optimizer": torch.optim.SGD(OneConv().parameters(), 0.1)}, "the optimizer is 'SGD.*expected a function"),
        ({"warmup_steps": -1}, "warmup_steps is -1; expected a number from 0"),
        ({"warmup_steps": 0.5}, "warmup_steps is 0.5; expected a number from 0"),
        ({"val_protocol": 3}, "val_protocol is 3; expected the name of a protocol"),
        ({"test_protocol": None}, "test_protocol is None; expected the name of a protocol"),
        ({"loss_reduction": "globally"}, "loss_reduction is 'globally'; expected one of per_rank, global"),
    ],
)
def test_invalid_arguments_are_one_line_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentationTask(**{"network": OneConv(), "labels": TABLE, **options})


def test_an_unknown_network_suggests_similar_names() -> None:
    with pytest.raises(UnknownNameError, match="did you mean hrnetv2_w18"):
        SegmentationTask("hrnet_w18", TABLE)


def test_a_network_in_evaluation_mode_was_trained_in_it(caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Sequential(OneConv(), nn.BatchNorm2d(3)).eval()
    assert SegmentationTask(network, TABLE).network[1].training  # type: ignore[index,union-attr]
    assert "the network was in evaluation mode" in caplog.text
    network[1].eval()  # one layer only, on purpose
    assert not SegmentationTask(network, TABLE).network[1].training  # type: ignore[index,union-attr]


def loader() -> DataLoader[Any]:
    return DataLoader([batch(8)] * 2, batch_size=None)  # type: ignore[arg-type]


def fit(task: SegmentationTask, **options: Any) -> None:
    trainer(max_steps=2, limit_val_batches=0, **options).fit(task, loader())


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:You defined a `validation_step`")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval", "ignore:`training_step` logged")
class TestRuns:
    """Errors that need a trainer."""

    def test_clipping_under_bf16_with_a_fused_optimiser_was_a_traceback(self) -> None:
        norms = []

        class Watched(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                result = closure()
                gradients = [p.grad for group in self.param_groups for p in group["params"]]
                norms.append(torch.cat([g.flatten() for g in gradients if g is not None]).norm().item())
                return result

        task = SegmentationTask(OneConv(), TABLE, optimizer=partial(Watched, lr=0.01, fused=True))
        fit(task, precision="bf16-mixed", gradient_clip_val=1e-3)
        assert norms == pytest.approx([1e-3] * 2, rel=1e-2)

    @pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
    def test_weights_in_half_precision_are_refused(self, precision: str) -> None:
        with pytest.raises(ConfigError, match=f"trainer.precision is {precision}, .*; give .*16-mixed"):
            fit(SegmentationTask(OneConv(), TABLE), precision=precision)

    def test_data_of_other_classes_are_refused_by_lightnings_own_trainer(self, camvid_root: Any) -> None:
        from tests.task.test_segmentation import camvid

        with pytest.raises(ConfigError, match="the task's labels are not the data's"):
            trainer(max_steps=1).fit(SegmentationTask(OneConv(), TABLE), camvid(camvid_root))

    def test_a_network_without_parameters_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="nothing of Identity is trained"):
            fit(SegmentationTask(nn.Identity(), TABLE))
        frozen = OneConv().requires_grad_(False)
        with pytest.raises(ConfigError, match="nothing of OneConv is trained"):
            fit(SegmentationTask(frozen, TABLE))

    def test_a_module_of_the_user_is_compiled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
        task = SegmentationTask(Gives(lambda logits: {"out": logits}), TABLE, compile=True)
        fit(task)
        assert "outputs" in vars(task)


def test_a_loss_for_a_missing_output_is_refused() -> None:
    losses = WeightedOutputsLoss({"out": CrossEntropyLoss(), "aux": nn.CrossEntropyLoss()}, {"aux": 0.4})
    with pytest.raises(ConfigError, match="a loss for output 'aux', but the network gives out"):
        SegmentationTask(OneConv(), TABLE, loss=losses).training_step(batch(), 0)


def test_labels_of_one_kind_are_equal() -> None:
    assert SegmentationTask(OneConv(), TABLE.to_dict()).labels == LabelTable.from_dict(TABLE.to_dict())


class LogsItself(Callback):
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("own", 1.0)


def test_the_monitor_of_early_stopping_is_checked_before_training(camvid_root: Path) -> None:
    """Lightning would fail after the first epoch, and its weights would be lost."""

    def fit(monitor: str, *others: Callback, **settings: Any) -> int:
        data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0)
        task = SegmentationTask(TINY, data.labels, crop_size=(32, 32), **settings)
        run = trainer(max_epochs=1, callbacks=[EarlyStopping(monitor), *others], num_sanity_val_steps=0)
        run.fit(task, data)
        return run.global_step

    with pytest.raises(UnknownNameError, match=r"unknown monitor of EarlyStopping 'val/mIoU'; did you mean val/miou"):
        fit("val/mIoU")
    with pytest.raises(UnknownNameError, match="'val/category_miou'"):  # CamVid has no categories
        fit("val/category_miou")
    with pytest.raises(UnknownNameError, match="'val/loss'"):  # several views have no loss
        fit("val/loss", val_protocol="slide")
    for monitor in ("val/miou", "val/loss", "train/loss"):
        assert fit(monitor) > 0
    assert fit("own", LogsItself()) > 0
