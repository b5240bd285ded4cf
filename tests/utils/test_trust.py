"""Classes that an untrusted file may build."""

from __future__ import annotations

from typing import Any

import pytest

from hrseg.errors import ConfigError
from hrseg.utils.trust import is_trusted, offline, require_trusted


@pytest.mark.parametrize(
    "path",
    [
        *("torch.nn.Conv2d", "torch.nn.modules.conv.Conv2d", "torch.optim.AdamW", "torch.optim.sgd.SGD"),
        *("torch.optim.lr_scheduler.StepLR", "segmentation_models_pytorch.Unet", "hrseg.losses.RMILoss"),
        *("segmentation_models_pytorch.decoders.unet.model.Unet", "albumentations.HorizontalFlip", "hrseg.optim.Muon"),
        *("albumentations.OneOf", "hrseg.CamVidDataModule", "hrseg.data.datasets.cityscapes.CityscapesDataModule"),
        *(
            "hrseg.data.transforms.BrightnessShift",
            "hrseg.inference.Protocol",
            "hrseg.models.networks.hrnet.HRNetVariant",
        ),
        *("hrseg.models.HRNetV2", "hrseg.SegmentationTask", "hrseg.task.SegmentationTask"),
        *("segmentation_models_pytorch.losses.DiceLoss", "hrseg.callbacks.BoundaryReport"),
    ],
)
def test_classes_that_recipes_name_are_trusted(path: str) -> None:
    assert is_trusted(path)


@pytest.mark.parametrize(
    "path",
    [
        *("os.system", "builtins.print", "pdb.set_trace", "subprocess.Popen", "torch.load", "torch.hub.load"),
        *("torch.utils.cpp_extension.load", "torch.nn.modules.module.warnings.warn", "torch.nn.init.zeros_"),
        *("torch.optim.optimizer.Callable", "pytorch_lightning.Trainer", "hrseg.run.fit.fit", "hrseg.fit"),
        *("pytorch_lightning.callbacks.LambdaCallback", "hrseg.callbacks.PredictionFiles", "hrseg.cli.main"),
        # what fetches files when it is built
        *("torchmetrics.multimodal.CLIPScore", "torchmetrics.image.FrechetInceptionDistance"),
        "segmentation_models_pytorch.encoders.timm_universal.TimmUniversalEncoder",
        *("hrseg.__main__.main", "hrseg.models.hub.ModelCard", "hrseg.task.segmentation.LightningModule"),
        *(
            "hrseg.data.datasets.street_scenes.write_scenes",
            "hrseg.models.from_pretrained",
            "albumentations.load",
        ),
        *(
            "hrseg.data.loader.SegmentationLoader",
            "torch.nn.no_such",
            "torch.nnx.Module",
            "segmentation_models_pytorch",
        ),
    ],
)
def test_other_names_are_not_trusted(path: str) -> None:
    assert not is_trusted(path)


TRUSTED: dict[str, Any] = {
    "model": {
        "network": {"class_path": "segmentation_models_pytorch.Unet", "init_args": {"encoder_name": "tu-mit_b0.v1"}},
        "loss": {
            "class_path": "hrseg.losses.SumLoss",
            "init_args": {"losses": [{"class_path": "hrseg.losses.RMILoss"}]},
        },
        "freeze": ["stage[34].*", "bn1"],
        "val_protocol": "slide",
    },
    "data": {
        "class_path": "hrseg.FolderDataModule",
        "init_args": {
            "root": "/home/my email.data/test.v2",
            "classes": "classes.yaml",
            "splits": {"train": "train.txt"},
        },
    },
}


def test_what_runs_have_is_accepted() -> None:
    require_trusted(TRUSTED, "config.yaml")


@pytest.mark.parametrize(
    "value",
    [
        "os.system",
        " os.system ",
        "'os.system'",
        "[os.system]",
        "- os.system",
        "--- os.system",
        "os.system # a comment",
        '"\\x6fs.system"',
        '["\\x6fs.system"]',
        "{class_path: os.system}",
        "class_path: os.system",
        "? class_path\n: os.system",
        '["class_path":os.system]',
        "other.yaml",
        "tu-hf-hub:user/network",
        *("tu-HF-HUB:user/network", "tu-Local-Dir:/network", "-", __file__, "/dev/null"),
        {"class_path": "os.system"},
        {"class_path": "Unet"},
        {"class_path": ["os.system"]},
        {"class_path": "hrseg.losses.RMILoss", "init_args": {"anything": [{"deep": {"class_path": "os.system"}}]}},
        {"class_path": "hrseg.losses.RMILoss", "dict_kwargs": {"anything": "os.system"}},
        {"os.system": 1},
    ],
)
@pytest.mark.parametrize("key", ["network", "network_args", "loss"])
def test_whatever_a_parser_could_import_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"config.yaml names .* under model.* give --trust") as caught:
        require_trusted({**TRUSTED, "model": {**TRUSTED["model"], key: value}}, "config.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [{}, {"init_args": {"encoder_weights": "imagenet"}}, {"dict_kwargs": {"encoder_weights": "imagenet"}}],
)
def test_networks_of_smp_start_without_weights_however_deep_they_are(given: dict[str, Any]) -> None:
    unet = {"class_path": "segmentation_models_pytorch.Unet", **given}
    dice = {"class_path": "segmentation_models_pytorch.losses.DiceLoss", "init_args": {"mode": "multiclass"}}
    settings = {"loss": {"class_path": "hrseg.losses.ModuleLoss", "init_args": {"module": [unet, dice]}}, "n": 1}
    module, kept = offline(settings)["loss"]["init_args"]["module"]
    assert module["init_args"] == {"encoder_weights": None}
    assert not module.get("dict_kwargs")
    assert kept == dice
