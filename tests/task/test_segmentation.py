from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.tuner import Tuner
from torch import Tensor, nn

from hrseg.data.datasets.camvid import CAMVID, CamVidDataModule
from hrseg.data.datasets.lip import LIPDataModule
from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, UnknownNameError, WeightsError
from hrseg.inference import IMAGENET_MEAN, IMAGENET_STD, Protocol, named_protocol, normalize
from hrseg.losses import CrossEntropyLoss, WeightedOutputsLoss
from hrseg.metrics import SegmentationMetrics
from hrseg.models import V2Head, create_model, save_weights
from hrseg.models.cpu import SplitV2Head
from hrseg.task import SegmentationTask

TABLE = LabelTable("toy", ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), categories={"ab": (0, 1), "c": (2,)})
TINY = "hrnetv2_w18_small_v1"


class WithNorm(nn.Sequential):
    """A user's network with batch norm."""

    def __init__(self) -> None:
        conv = nn.Conv2d(3, CAMVID.num_classes, 1)
        super().__init__(OrderedDict(norm=nn.BatchNorm2d(3), conv=conv))


class OneConv(nn.Module):
    """Logits at the image's size, like those of other libraries' networks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


class TwoOutputs(OneConv):
    """Logits at stride 4 and an auxiliary output."""

    align_corners = True
    head_names = ("conv",)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        logits = F.avg_pool2d(self.conv(images), 4)
        return {"out": logits, "aux": 0.5 * logits}


def batch(size: int = 32, number: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator)
    target = torch.randint(0, 3, (number, size, size), dtype=torch.uint8, generator=generator)
    target[:, :2] = 255
    return {"image": image, "target": target, "name": [str(i) for i in range(number)]}


def trainer(**options: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", devices=1, use_distributed_sampler=False, **{**quiet, **options})


def camvid(root: Path, **options: Any) -> CamVidDataModule:
    return CamVidDataModule(root, batch_size=2, crop_size=(32, 32), num_workers=0, **options)


# ------------------------------------------------------------------------------------------------------ construction


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": None}, "labels=data.labels"),
        ({"loss": CrossEntropyLoss([1.0, 2.0])}, "2 class weights for the 3 classes of toy"),
        ({"network": OneConv(), "weights": "imagenet"}, "belong to a network given by name"),
        ({"network": "hrnetv2_w19"}, "unknown model"),
        ({"network_args": {"fuse_mod": "nearest"}}, "did you mean fuse_mode"),
    ],
)
def test_contradictions_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    from hrseg.errors import HrsegError

    with pytest.raises(HrsegError, match=message):
        SegmentationTask(**{"network": TINY, "labels": TABLE, **options})


def test_parameters_reach_the_network() -> None:
    arguments = {"align_corners": True, "fuse_mode": "nearest"}
    task = SegmentationTask(TINY, TABLE, network_args=arguments, checkpoint_stages=[2, 3])
    config = task.network.config  # type: ignore[union-attr]
    assert config["num_classes"] == 3  # type: ignore[index]
    assert config["fuse_mode"] == "nearest"  # type: ignore[index]
    assert task.network.checkpoint_stages == {2, 3}
    assert task.align_corners is True
    assert task.network.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_other_classes_start_from_the_backbone(tmp_path: Path) -> None:
    trained = create_model(TINY, num_classes=19)
    save_weights(trained, tmp_path / "street.safetensors")
    with pytest.raises(WeightsError, match=r"reinit_head=True"):
        SegmentationTask(TINY, TABLE, weights=str(tmp_path / "street.safetensors"))
    task = SegmentationTask(TINY, TABLE, weights=str(tmp_path / "street.safetensors"), reinit_head=True)
    assert torch.equal(task.network.get_parameter("conv1.weight"), trained.get_parameter("conv1.weight"))
    assert task.network.get_parameter("last_layer.3.weight").shape[0] == 3


def test_the_loss_is_bound_to_data_and_network() -> None:
    table = LabelTable("other", ("a", "b", "c"), TABLE.colors, ignore_index=253)
    task = SegmentationTask(TwoOutputs(), table)
    loss = task.loss.losses["out"]  # type: ignore[index]
    assert (loss.ignore_index, loss.align_corners) == (253, True)


def test_a_fit_on_the_cpu_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch, camvid_root: Path) -> None:
    calls = []
    monkeypatch.setattr("hrseg.task.segmentation.keep_freed_memory", lambda: calls.append("kept"))
    trainer(max_steps=1, limit_val_batches=0).fit(SegmentationTask(TINY, CAMVID), camvid(camvid_root))
    assert calls == ["kept"]


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_networks_of_hrseg_are_optimized_for_the_cpu_that_they_run_on(verb: str, camvid_root: Path) -> None:
    task, other = SegmentationTask(TINY, CAMVID), SegmentationTask(WithNorm(), CAMVID)
    assert type(task.network.get_submodule("last_layer")) is V2Head
    for each in (task, other):
        getattr(trainer(fast_dev_run=1), verb)(each, camvid(camvid_root))
    assert type(task.network.get_submodule("last_layer")) is SplitV2Head
    assert type(other.network.get_submodule("norm")) is nn.BatchNorm2d


def test_labels_may_be_the_dictionary_of_a_checkpoint() -> None:
    assert SegmentationTask(OneConv(), TABLE.to_dict()).labels == TABLE


# ------------------------------------------------------------------------------------------------------------- steps


def test_images_are_normalised_once_and_keep_their_memory_format() -> None:
    images = batch()["image"].contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (images.double() / 255 - mean.double()) / std.double()
    result = normalize(images, mean, std)
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=0)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_channels_are_reversed_for_a_bgr_network() -> None:
    """Mean and standard deviation are not reversed, as in the official code of such weights."""
    network = OneConv()
    network.channel_order = "bgr"
    given = batch()["image"]
    mean, std = np.array(IMAGENET_MEAN)[:, None, None], np.array(IMAGENET_STD)[:, None, None]
    turned = torch.from_numpy((given.numpy()[:, ::-1] / 255 - mean) / std).float()
    torch.testing.assert_close(SegmentationTask(network, TABLE)(given), network(turned), atol=1e-5, rtol=1e-5)
    named = SegmentationTask(TINY, TABLE, network_args={"channel_order": "bgr"})
    torch.testing.assert_close(named._prepare(given), turned, atol=1e-5, rtol=0)


def test_a_training_step_is_the_loss_of_the_normalised_images() -> None:
    task = SegmentationTask(OneConv(), TABLE)
    given = batch()
    mean, std = np.array(IMAGENET_MEAN)[:, None, None], np.array(IMAGENET_STD)[:, None, None]
    images = torch.from_numpy((given["image"].numpy() / 255 - mean) / std).float()
    expected = F.cross_entropy(task.network(images), given["target"].long(), ignore_index=255)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    torch.testing.assert_close(task.training_step(given, 0), expected, atol=1e-5, rtol=1e-5)


ONE = LabelTable("one", ("a",), ((0, 0, 0),))


@pytest.mark.parametrize(
    ("network", "labels", "size", "remedy"),
    [
        (TINY, TABLE, 32, r"data\.batch_size 2 or more, or crops of more than 32x32"),
        (f"{TINY}_ocr", ONE, 64, r"data\.batch_size 2 or more$"),  # one class has a single object region
    ],
)
def test_one_value_per_channel_is_an_error_with_a_remedy(
    network: str, labels: LabelTable, size: int, remedy: str
) -> None:
    """`Expected more than 1 value per channel` of torch was a traceback."""
    task = SegmentationTask(network, labels)
    sample = batch(size, 1)
    sample["target"] = sample["target"].clamp(max=0)
    with pytest.raises(ConfigError, match=rf"a batch of 1 image of {size}x{size} gives .*; give {remedy}"):
        task.training_step(sample, 0)


def test_one_value_per_channel_is_reported_before_training(camvid_root: Path) -> None:
    """It was an error of the first step, after a validation; the check keeps the statistics of batch norm."""
    seen: list[str] = []
    found: list[dict[str, Tensor]] = []
    callback = Callback()
    callback.on_validation_batch_end = lambda *_: seen.append("validation")  # type: ignore[method-assign]
    callback.on_train_start = lambda _, task: found.append(buffers(task))  # type: ignore[method-assign]

    def buffers(task: nn.Module) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in task.named_buffers()}

    def fit(size: int) -> dict[str, Tensor]:
        task = SegmentationTask(TINY, CAMVID, crop_size=(size, size))
        before = buffers(task)
        data = CamVidDataModule(camvid_root, batch_size=1, crop_size=task.crop_size, num_workers=0)
        trainer(max_steps=1, callbacks=[callback]).fit(task, data)
        return before

    with pytest.raises(ConfigError, match=r"a batch of 1 image of 32x32 gives .*data\.batch_size 2 or more"):
        fit(32)
    assert not seen
    torch.testing.assert_close([fit(64)], found, atol=0, rtol=0)


def test_frozen_batch_norm_may_have_one_value_per_channel(camvid_root: Path) -> None:
    parts = {"pool": nn.AdaptiveAvgPool2d(1), "norm": nn.BatchNorm2d(3), "head": nn.Conv2d(3, CAMVID.num_classes, 1)}
    network = nn.Sequential(OrderedDict(parts))
    data = CamVidDataModule(camvid_root, batch_size=1, crop_size=(32, 32), num_workers=0)
    trainer(max_steps=1).fit(SegmentationTask(network, CAMVID, crop_size=(32, 32), freeze=["norm"]), data)


def test_outputs_are_weighted() -> None:
    losses = {"out": CrossEntropyLoss(), "aux": CrossEntropyLoss()}
    task = SegmentationTask(TwoOutputs(), TABLE, loss=WeightedOutputsLoss(losses, {"aux": 0.4}))
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    given = batch()
    outputs = task.outputs(task._prepare(given["image"]))
    target = given["target"].long()
    out, aux = (
        F.cross_entropy(
            F.interpolate(outputs[name], (32, 32), mode="bilinear", align_corners=True), target, ignore_index=255
        )
        for name in ("out", "aux")
    )
    torch.testing.assert_close(task.training_step(given, 0), out + 0.4 * aux)


def test_logits_have_the_size_asked_for() -> None:
    task = SegmentationTask(TINY, TABLE).eval()
    images = batch(45)["image"]
    assert task(images).shape == (2, 3, 45, 45)
    assert task(images, size=(90, 91)).shape == (2, 3, 90, 91)
    first, second = task.predict_step({"image": images, "size": [(45, 45), (90, 91)]}, 0)["prediction"]
    assert (first.shape, second.shape) == ((45, 45), (90, 91))
    assert first.dtype == torch.uint8


@pytest.mark.parametrize("network", [OneConv(), TwoOutputs(), TINY], ids=["plain module", "two outputs", TINY])
def test_whole_runs(network: nn.Module | str, camvid_root: Path) -> None:
    data = camvid(camvid_root)
    if not isinstance(network, str):
        network.conv = nn.Conv2d(3, 11, 1)
    task = SegmentationTask(network, data.labels)
    runner = trainer(max_epochs=1)
    runner.fit(task, data)
    assert runner.global_step == 2
    scores = runner.validate(task, data, verbose=False)[0]
    assert set(scores) == {"val/loss", "val/miou", "val/pixel_accuracy", "val/mean_accuracy", "val/fwiou"}
    assert scores == {
        key.replace("test", "val"): value for key, value in runner.test(task, data, verbose=False)[0].items()
    }
    assert not runner.predict(task, camvid(camvid_root, predict_split="val"), return_predictions=False)


def test_scores_are_computed_over_all_pixels(camvid_root: Path) -> None:
    data = camvid(camvid_root)
    task = SegmentationTask(TINY, data.labels)
    scores = trainer().validate(task, data, verbose=False)[0]
    intersection, union = np.zeros(11), np.zeros(11)
    task.eval()
    for sample in data.val_dataloader().dataset:
        with torch.inference_mode():
            prediction = task(sample["image"][None]).argmax(1)[0].numpy()
        target = sample["target"].numpy()
        for train_id in range(11):
            is_predicted, is_true = (prediction == train_id) & (target != 255), target == train_id
            intersection[train_id] += (is_predicted & is_true).sum()
            union[train_id] += (is_predicted | is_true).sum()
    assert scores["val/miou"] == pytest.approx((intersection / union).mean(), abs=1e-6)


def test_a_protocol_scores_and_predicts(camvid_root: Path) -> None:
    data = camvid(camvid_root, predict_split="val")
    protocol = Protocol((0.5, 1.0), flip=True, fusion="softmax", window=(32, 32), stride=(24, 24))
    torch.manual_seed(0)
    task = SegmentationTask(TINY, data.labels, network_args={"init": "kaiming"}, test_protocol=protocol)
    scores = trainer().test(task, data, verbose=False)[0]
    assert "test/loss" not in scores  # the views have none
    predicted = trainer().predict(task, data)
    assert predicted is not None
    metrics = SegmentationMetrics(11)
    task.eval()
    for item, output in zip(data.val_dataloader(), predicted, strict=True):
        images = normalize(item["image"], task.mean, task.std)
        with torch.inference_mode():
            expected = protocol.scores(task.network, images, black=(-task.mean / task.std)[0]).argmax(1)
        assert torch.equal(output["prediction"][0], expected[0].to(torch.uint8))  # type: ignore[call-overload]
        metrics.update(expected, item["target"])
    assert scores["test/miou"] == pytest.approx(metrics.compute()["miou"].item(), abs=1e-7)


def test_images_of_several_sizes_may_share_a_batch(lip_root: Path) -> None:
    """With and without input_size; the scores are those of one image at a time, at the labels' own sizes."""
    for input_size in (None, (64, 48)):
        scores, predictions = [], []
        for number in (1, 3):
            data = LIPDataModule(
                lip_root,
                batch_size=2,
                num_workers=0,
                input_size=input_size,
                eval_batch_size=number,
                predict_split="val",
            )
            torch.manual_seed(0)
            task = SegmentationTask(TINY, data.labels, network_args={"init": "kaiming"})
            scores.append(trainer().validate(task, data, verbose=False)[0])
            batches = trainer().predict(task, data) or []
            predictions.append([map_ for batch in batches for map_ in batch["prediction"]])  # type: ignore[call-overload]
        assert scores[0] == pytest.approx(scores[1], rel=1e-5)
        assert [tuple(map_.shape) for map_ in predictions[0]] == [(50, 40), (60, 40), (70, 40)]
        for alone, together in zip(*predictions, strict=True):
            assert (alone == together).float().mean() > 0.999  # ties may fall either way


def test_protocols_by_name() -> None:
    task = SegmentationTask(TINY, TABLE, val_protocol="slide", test_protocol="pascal_context", crop_size=(480, 480))
    assert task.val_protocol == named_protocol("slide", (480, 480))
    assert task.test_protocol == named_protocol("pascal_context", (480, 480))
    with pytest.raises(UnknownNameError, match="unknown protocol 'slid'; did you mean slide"):
        SegmentationTask(TINY, TABLE, val_protocol="slid")


# --------------------------------------------------------------------------------------------------------- optimiser


def test_the_schedule_spans_the_whole_training(camvid_root: Path) -> None:
    data = camvid(camvid_root)
    task = SegmentationTask(OneConv(), LabelTable("camvid", data.labels.class_names, data.labels.colors))
    task.network.conv = nn.Conv2d(3, 11, 1)
    rates: list[float] = []
    original = task.optimizer_step
    task.optimizer_step = lambda *a, **k: (rates.append(a[2].param_groups[0]["lr"]), original(*a, **k))[1]  # type: ignore
    trainer(max_epochs=2).fit(task, data)
    # 2 epochs of 2 steps; the official schedule lags by one step
    assert rates == pytest.approx([0.01 * (1 - max(step - 1, 0) / 4) ** 0.9 for step in range(4)])


@pytest.mark.parametrize(("asked", "taken"), [(100, 2), (19, 19), (0, 0)])
def test_a_warm_up_longer_than_the_training_stopped_it(
    asked: int, taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    task = SegmentationTask(OneConv(), TABLE, warmup_steps=asked)
    facts = {
        "estimated_stepping_batches": 20,
        "is_global_zero": True,
        "precision_plugin": None,
        "gradient_clip_val": None,
    }
    task._trainer = SimpleNamespace(**facts)  # type: ignore[assignment]
    schedule = task.configure_optimizers()["lr_scheduler"]["scheduler"]
    (factor,) = schedule.lr_lambdas
    assert [step for step in range(21) if factor(step) < (1 - max(step - 1, 0) / 20) ** 0.9] == list(range(taken))
    assert ("shortened to 2, a tenth" in caplog.text) == (asked > 20)


def test_a_training_without_an_end_is_refused(camvid_root: Path) -> None:
    data = camvid(camvid_root)
    task = SegmentationTask(TINY, data.labels)
    with pytest.raises(ConfigError, match=r"set trainer\.max_epochs or trainer\.max_steps"):
        trainer(max_epochs=-1, max_time="00:00:01:00").fit(task, data)


def test_the_head_learns_faster(camvid_root: Path) -> None:
    data = camvid(camvid_root)
    optimizers: list[torch.optim.Optimizer] = []

    def make(groups: Any) -> torch.optim.Optimizer:
        optimizers.append(torch.optim.SGD(groups, lr=0.1))
        return optimizers[-1]

    task = SegmentationTask(TINY, data.labels, optimizer=make, head_lr_factor=10, power=0, decay_norm_and_bias=False)
    trainer(max_epochs=1).fit(task, data)
    rates = {group["name"]: (group["lr"], group.get("weight_decay")) for group in optimizers[0].param_groups}
    assert rates["head"][0] == pytest.approx(1.0)
    assert rates["backbone"][0] == pytest.approx(0.1)
    assert rates["backbone_no_decay"][1] == 0


@pytest.mark.parametrize(
    ("options", "callbacks"),
    [
        ({}, []),
        ({"checkpoint_stages": [1, 2, 3, 4], "channels_last": False}, []),
        ({}, [EMAWeightAveraging(decay=0.5)]),
    ],
)
def test_frozen_layers_stay_and_others_learn(
    camvid_root: Path, options: dict[str, Any], callbacks: list[Callback]
) -> None:
    data = camvid(camvid_root)
    task = SegmentationTask(TINY, data.labels, freeze=["backbone"], **options)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    fitting = trainer(max_epochs=2, callbacks=callbacks)  # training, validation, training
    fitting.fit(task, data)
    after = task.network.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {name for name in before if name.startswith("last_layer.")}
    (optimizer,) = fitting.optimizers
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
    assert len(optimizer.state) == 6


def test_frozen_batch_norm_stays_in_evaluation_when_it_is_synchronised() -> None:
    task = SegmentationTask(TINY, TABLE, freeze=["layer1"])
    task = nn.SyncBatchNorm.convert_sync_batchnorm(task)  # type: ignore[assignment]  # as Lightning does
    nn.ModuleDict({"wrapped": task}).train()  # as DDP does
    norms = {
        name: module.training for name, module in task.network.named_modules() if isinstance(module, nn.SyncBatchNorm)
    }
    assert {name for name, training in norms.items() if not training} == {n for n in norms if n.startswith("layer1.")}
    assert not any(norms[name] for name in norms if name.startswith("layer1."))


def test_a_training_with_frozen_layers_resumes_bit_exactly(camvid_root: Path, tmp_path: Path) -> None:
    data = camvid(camvid_root)

    def task() -> SegmentationTask:
        torch.manual_seed(0)
        factors = {"stage4": 0.1}
        return SegmentationTask(TINY, data.labels, freeze=["layer1", "stage2"], schedule="cosine", lr_factors=factors)

    whole, second = task(), task()
    halfway = tmp_path / "step=2.ckpt"
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    trainer(max_epochs=2, callbacks=[keep], enable_checkpointing=True).fit(whole, data)
    trainer(max_epochs=2, callbacks=[keep], enable_checkpointing=True).fit(second, data, ckpt_path=halfway)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name


def test_reduce_lr_on_plateau_follows_the_scores(camvid_root: Path) -> None:
    data = camvid(camvid_root)

    def plateau(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=0, threshold=10.0)

    task = SegmentationTask(TINY, data.labels, schedule=plateau)
    fitting = trainer(max_epochs=3, limit_train_batches=1)
    fitting.fit(task, data)
    assert fitting.optimizers[0].param_groups[0]["lr"] == 0.01 / 4


# -------------------------------------------------------------------------------------------------------- other ways


def test_a_compiled_network_gives_the_same_loss(camvid_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compile_network = torch.compile

    def eager(function: Any) -> Any:
        calls.append(function)
        return compile_network(function, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", eager)
    data = camvid(camvid_root)
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        network = TwoOutputs()  # our networks are compiled in tests/models
        network.conv = nn.Conv2d(3, 11, 1)
        task = SegmentationTask(network, data.labels, compile=compiled)
        runner = trainer(max_epochs=1)
        runner.fit(task, data)
        runner.validate(task, data, verbose=False)
        losses.append(runner.callback_metrics["val/loss"].item())
    assert len(calls) == 1
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_bf16_and_channels_last_off_come_close(camvid_root: Path) -> None:
    data = camvid(camvid_root)
    losses = []
    for precision, channels_last in (("32-true", True), ("bf16-mixed", True), ("32-true", False)):
        torch.manual_seed(0)
        task = SegmentationTask(TINY, data.labels, network_args={"init": "kaiming"}, channels_last=channels_last)
        losses.append(trainer(precision=precision).validate(task, data, verbose=False)[0]["val/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(
    ("network", "weights"),
    [
        ("hrnetv2_w18_small_v1", {"out": 1.0}),
        ("hrnetv2_w18_small_v1_ocr", {"out": 1.0, "aux": 0.4}),
        ("hrnetv2_w18_small_v1_ocr_hmsa", {"out": 1.0, "aux": 0.4, "out_1_0": 0.05, "out_0_5": 0.05}),
    ],
)
def test_without_a_loss_all_outputs_are_trained_with_the_published_weights(
    network: str, weights: dict[str, float]
) -> None:
    assert SegmentationTask(network, CAMVID).loss.weights == weights


# ----------------------------------------------------------------------------------------------------- what users try


class SmallConv(nn.Module):
    """Logits for CamVid, at the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 11, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


@pytest.mark.parametrize("name", ["num_classes", "weights", "reinit_head", "from_file"])
def test_network_args_that_the_task_determines_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"network_args holds {name}, which the task's own arguments and the classes"):
        SegmentationTask(TINY, TABLE, network_args={name: 7})


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on loaders and checkpoints
def test_lightnings_tuner_finds_a_learning_rate_and_a_batch_size(
    camvid_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data, task = camvid(camvid_root), SegmentationTask(SmallConv(), CAMVID)
    finder = Tuner(trainer(max_epochs=20)).lr_find(task, datamodule=data, num_training=20, early_stop_threshold=None)
    assert finder is not None
    assert task.lr == finder.suggestion() is not None
    after = trainer(max_steps=1, limit_val_batches=0)
    after.fit(task, data)
    assert after.optimizers[0].param_groups[0]["initial_lr"] == task.lr
    assert Tuner(trainer(max_epochs=1)).scale_batch_size(task, datamodule=data, max_trials=2, init_val=1) == 2


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lbfgs_is_refused_in_channels_last_and_works_otherwise(camvid_root: Path) -> None:
    for channels_last in (True, False):
        task = SegmentationTask(
            SmallConv(), CAMVID, optimizer=partial(torch.optim.LBFGS, max_iter=2), channels_last=channels_last
        )
        once = trainer(max_steps=1, limit_val_batches=0)
        if channels_last:
            with pytest.raises(ConfigError, match="LBFGS takes gradients in contiguous memory only"):
                once.fit(task, camvid(camvid_root))
        else:
            once.fit(task, camvid(camvid_root))
            assert once.global_step == 1
