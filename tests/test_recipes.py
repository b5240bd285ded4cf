"""Every recipe runs: one batch of fit, validate and test, with the network made tiny and the data generated."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as evaluator  # noqa: N813

import hrseg
from hrseg.cli import main
from hrseg.inference.protocol import _FIXED as PROTOCOLS
from hrseg.models import HRNetVariant
from hrseg.models.registry import BUILDERS
from hrseg.utils.images import image_size

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
ONE_BATCH = EXPERIMENTS / "debug" / "one_batch.yaml"
OVERLAYS = sorted([*EXPERIMENTS.glob("options/*.yaml"), *EXPERIMENTS.glob("debug/*.yaml")])
RECIPES = sorted(set(EXPERIMENTS.rglob("*.yaml")) - set(OVERLAYS))

TINY = [
    *("--trainer.devices=1", "--trainer.accelerator=cpu"),
    *("--data.batch_size=2", "--data.crop_size=[64,96]", "--data.num_workers=0"),
]

# what stands in for the encoders of segmentation_models_pytorch
SMALL_ENCODERS = {
    "mit_b2": "mit_b0",
    "resnet101": "resnet18",
    "tu-convnext_tiny": "tu-convnext_atto",
    "tu-hrnet_w18": "tu-hrnet_w18_small",
}


def name_of(path: Path) -> str:
    return path.relative_to(EXPERIMENTS).as_posix()


def data_options(recipe: Path, request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    data = yaml.safe_load(recipe.read_text())["data"]["class_path"]
    if data == "hrseg.StreetScenesDataModule":
        return [
            f"--data.root={tmp_path / 'scenes'}",
            *("--data.num_train=2", "--data.num_val=2", "--data.num_test=2", "--data.image_size=[64,128]"),
        ]
    file = getattr(hrseg, data.removeprefix("hrseg.")).__module__.rpartition(".")[2]
    return [f"--data.root={request.getfixturevalue(f'{file}_root')}"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # Lightning sets it in deterministic mode, which it leaves on
    yield
    torch.use_deterministic_algorithms(False)


# the one recipe that is tested at the seven scales of its protocol, which others share
SEVEN_SCALES = "hrnetv2_w48_59_b16_480x480_200e.yaml"


def make_tiny(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `create_model` build the network of that name, parameters and all, as narrow and short as can be."""
    builder = BUILDERS[name]
    assert isinstance(builder, partial)
    (variant,) = builder.args
    first = {"layer1_blocks": 1} if isinstance(variant, HRNetVariant) else {"heads": 1}
    tiny = replace(variant, width=8, blocks=1, modules=(1, 1, 1), **first)
    monkeypatch.setitem(BUILDERS, name, partial(builder.func, tiny))


def model_options(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that make the network tiny and keep it from fetching weights, and the protocols affordable."""
    model = yaml.safe_load(recipe.read_text())["model"]
    network = model["network"]
    if isinstance(network, dict):
        encoder = SMALL_ENCODERS[network["init_args"]["encoder_name"]]
        prefix = "--model.network.init_args"
        return [f"{prefix}.encoder_name={encoder}", f"{prefix}.encoder_weights=null"]
    make_tiny(network, monkeypatch)
    options = ["--model.weights=null"]
    for key in ("val_protocol", "test_protocol"):
        if isinstance(model.get(key), dict):
            options.append(f"--model.{key}={{base_size: 128}}")
        elif "_ocr" in network or (model.get(key) == "pascal_context" and recipe.name != SEVEN_SCALES):
            options.append(f"--model.{key}=whole")  # at all scales they take minutes
    return options


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_recipe_runs(
    recipe: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(PROTOCOLS["cityscapes"], base_size=256, window=(128, 256))  # an eighth of the images' size
    monkeypatch.setitem(PROTOCOLS, "cityscapes", small)
    options = [f"--config={recipe}", f"--config={ONE_BATCH}", *TINY, *data_options(recipe, request, tmp_path)]
    options += [*model_options(recipe, monkeypatch), "--trainer.precision=32-true"]  # half needs a GPU
    assert main(["fit", *options, "--run_dir=run"]) == 0
    checkpoint = "--ckpt_path=run/checkpoints/best.ckpt"
    assert main(["validate", *options, checkpoint]) == 0
    assert main(["test", checkpoint]) == 0
    for file in ("config.yaml", "metrics.csv", "checkpoints/last.ckpt", "val/iou.csv", "test/scores.json"):
        assert (Path("run") / file).is_file()


@pytest.mark.parametrize("overlay", [path for path in OVERLAYS if path != ONE_BATCH], ids=name_of)
def test_an_overlay_runs_on_top_of_a_recipe(overlay: Path, camvid_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = next(path for path in RECIPES if path.parent.name == "camvid")
    options = [
        f"--config={recipe}",
        f"--config={overlay}",
        f"--config={ONE_BATCH}",
        *TINY,
        *model_options(recipe, monkeypatch),
        f"--data.root={camvid_root}",
    ]
    if overlay.stem == "overfit":
        options += ["--trainer.limit_train_batches=null", "--trainer.check_val_every_n_epoch=1"]
    if overlay.stem in ("wandb", "mlflow"):  # not among the packages of the tests
        pytest.importorskip(overlay.stem)
    if overlay.stem == "compile":  # the whole compiler takes minutes
        pytest.skip("tests/task/test_segmentation.py compiles a smaller network")
    assert main(["fit", *options, "--run_dir=run"]) == 0
    written = yaml.safe_load(Path("run/config.yaml").read_text())
    for section, settings in yaml.safe_load(overlay.read_text()).items():
        for key, value in settings.items():
            if key not in (
                "init_args",
                "callbacks+",
                "logger+",
                "limit_train_batches",
                "check_val_every_n_epoch",
                "max_epochs",
            ):
                assert written[section][key] == value, key


def test_an_official_recipe_on_genuine_frames(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains for two steps of full crops, and scores what `predict` writes with the official evaluator."""
    make_tiny("hrnetv2_w18_small_v1", monkeypatch)
    recipe = EXPERIMENTS / "cityscapes" / "hrnetv2_w18_small_v1_b12_512x1024_484e.yaml"
    options = [
        f"--config={recipe}",
        f"--data.root={shared_data / 'cityscapes'}",
        *("--model.weights=null", "--model.network_args.init=kaiming", "--data.batch_size=2", "--data.num_workers=0"),
        *("--trainer.devices=1", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"),
        *("--trainer.limit_train_batches=2", "--run_dir=run"),
    ]
    assert main(["fit", *options]) == 0
    checkpoint = "--ckpt_path=run/checkpoints/last.ckpt"
    for verb in ("validate", "test"):
        assert main([verb, checkpoint, "--data.num_workers=0"]) == 0
    assert main(["predict", checkpoint, "--data.num_workers=0", "--data.predict_split=val"]) == 0

    evaluator.args.evalInstLevelScore = evaluator.args.JSONOutput = False
    evaluator.args.quiet = True
    predictions = sorted(Path("run/predict/labels").rglob("*.png"))
    truths = sorted((shared_data / "cityscapes/gtFine/val").rglob("*_labelIds.png"))
    assert len(predictions) == len(truths) == 5
    official = evaluator.evaluateImgLists([str(p) for p in predictions], [str(t) for t in truths], evaluator.args)
    scores = json.loads(Path("run/test/scores.json").read_text())
    assert scores == json.loads(Path("run/val/scores.json").read_text())
    assert scores["miou"] == pytest.approx(official["averageScoreClasses"], abs=1e-12)


def linked_pascal_context(samples: Path, root: Path) -> list[str]:
    """VOC2010 with the genuine pairs, the last ten for validation."""
    root.mkdir()
    for folder in ("JPEGImages", "SegmentationClassContext"):
        (root / folder).symlink_to(samples / "pascal_context" / folder)
    names = sorted(path.stem for path in (root / "JPEGImages").iterdir())
    lists = root / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(names[:-10]))
    (lists / "val.txt").write_text("\n".join(names[-10:]))
    return [f"--data.root={root}"]


def linked_lip(samples: Path, root: Path) -> list[str]:
    """LIP with the one genuine pair, for training and validation."""
    root.mkdir()
    for folder in ("TrainVal_images", "TrainVal_parsing_annotations"):
        (root / folder).symlink_to(samples / "lip" / folder)
    return [f"--data.root={root}", "--data.val_split=train", "--data.test_split=train", "--data.predict_split=train"]


@pytest.mark.parametrize(
    ("recipe", "link"),
    [
        ("pascal_context/hrnetv2_w48_59_b16_480x480_200e.yaml", linked_pascal_context),
        ("lip/hrnetv2_w48_b40_473x473_150e.yaml", linked_lip),
    ],
    ids=["PASCAL-Context", "LIP"],
)
def test_the_other_recipes_on_genuine_images(
    recipe: str,
    link: Callable[[Path, Path], list[str]],
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step of full crops, and one image in all the views of the paper's protocol."""
    make_tiny("hrnetv2_w18_small_v1", monkeypatch)
    options = [
        f"--config={EXPERIMENTS / recipe}",
        f"--config={ONE_BATCH}",
        *link(shared_data, tmp_path / "data"),
        *("--model.network=hrnetv2_w18_small_v1", "--model.weights=null", "--trainer.devices=1"),
        *("--trainer.accelerator=cpu", "--data.batch_size=1", "--data.num_workers=0"),
    ]
    assert main(["fit", *options, "--run_dir=run"]) == 0
    checkpoint = "--ckpt_path=run/checkpoints/last.ckpt"
    for verb in ("validate", "test"):
        assert main([verb, checkpoint]) == 0
    assert main(["predict", checkpoint, "--model.test_protocol=whole"]) == 0
    scores = json.loads(Path("run/test/scores.json").read_text())
    assert 0 <= scores["miou"] <= 1
    (written,) = Path("run/predict/labels").iterdir()
    (image,) = glob.glob(f"{tmp_path}/data/**/{written.stem}.jpg", recursive=True)  # which follows links
    assert image_size(written) == image_size(Path(image))


def test_the_official_recipes_hold_the_official_values() -> None:
    """Every value of the fact sheet, for the three networks of the Cityscapes table."""
    for name in ("hrnetv2_w48", "hrnetv2_w18_small_v1", "hrnetv2_w18_small_v2"):
        recipe = yaml.safe_load((EXPERIMENTS / "cityscapes" / f"{name}_b12_512x1024_484e.yaml").read_text())
        model, data, trainer = recipe["model"], recipe["data"]["init_args"], recipe["trainer"]
        assert model["network"] == name
        assert model["optimizer"]["class_path"] == "torch.optim.SGD"
        optimizer = model["optimizer"]["init_args"]
        assert optimizer == {"lr": 0.01, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0005}
        assert model["power"] == 0.9
        assert model["decay_norm_and_bias"] is True
        assert len(model["loss"]["init_args"]["class_weights"]) == 19
        assert (data["crop_size"], data["base_size"], data["scale_range"]) == ([512, 1024], 2048, [0.5, 2.1])
        assert data["batch_size"] * trainer["devices"] == 12
        assert trainer["max_epochs"] == 484


def read(name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings of the model, the data and the trainer."""
    recipe = yaml.safe_load((EXPERIMENTS / name).read_text())
    return recipe["model"], recipe["data"]["init_args"], recipe["trainer"]


@pytest.mark.parametrize("network", ["hrnetv2_w48_ocr_hmsa", "hrnetv2_w48_psa_s_ocr_hmsa"])
def test_the_multi_scale_recipes_hold_the_values_of_nvidia(network: str) -> None:
    model, data, trainer = read(f"cityscapes/{network}_b8_1024x2048_175e.yaml")
    assert model["network"] == network
    assert sorted(model["network_args"]["scales"]) == [0.5, 1.0, 2.0]
    loss = model["loss"]["init_args"]
    assert loss["weights"] == {"out": 1.0, "aux": 0.4, "out_1_0": 0.05, "out_0_5": 0.05}
    shares = {name: each["init_args"]["bce_weight"] for name, each in loss["losses"].items()}
    assert shares == {"out": 0.5, "aux": 1.0, "out_1_0": 1.0, "out_0_5": 1.0}
    optimizer = {"lr": 0.005, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0001}
    assert model["optimizer"]["init_args"] == optimizer
    assert (model["power"], model["warmup_steps"], model["decay_norm_and_bias"]) == (2.0, 0, True)
    assert (data["crop_size"], data["scale_range"], data["class_uniform"]) == ([1024, 2048], [0.5, 2.0], 0.5)
    assert data["batch_size"] * trainer["devices"] == 8
    assert trainer["max_epochs"] == 175


@pytest.mark.parametrize(
    ("name", "batch", "crop", "steps", "drop_path"),
    [
        ("cityscapes/hrformer_s_ocr_b8_512x1024_80k", 8, [512, 1024], 80_000, 0.2),
        ("cityscapes/hrformer_b_ocr_b8_512x1024_80k", 8, [512, 1024], 80_000, 0.4),
        ("pascal_context/hrformer_b_ocr_59_b16_520x520_60k", 16, [520, 520], 60_000, 0.2),
    ],
)
def test_the_hrformer_recipes_hold_the_official_values(
    name: str, batch: int, crop: list[int], steps: int, drop_path: float
) -> None:
    model, data, trainer = read(f"{name}.yaml")
    assert model["network_args"]["drop_path"] == drop_path
    assert model["loss"]["init_args"]["weights"] == {"out": 1.0, "aux": 0.4}
    assert model["optimizer"] == {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": 0.0001, "betas": [0.9, 0.999], "weight_decay": 0.01},
    }
    schedule = model["power"], model["warmup_steps"], model["head_lr_factor"], model["decay_norm_and_bias"]
    assert schedule == (0.9, 1500, 1.0, False)
    assert (data["crop_size"], data["scale_range"], data["aspect_range"]) == (crop, [0.5, 2.0], [0.9, 1.1])
    assert data["batch_size"] * trainer["devices"] == batch
    assert (trainer["max_epochs"], trainer["max_steps"]) == (-1, steps)
    if name.startswith("cityscapes"):
        hard = model["loss"]["init_args"]["losses"]["out"]["init_args"]
        assert (hard["threshold"], hard["min_kept"]) == (0.9, 100_000)


def test_the_baselines_differ_in_their_networks_only() -> None:
    recipes = [yaml.safe_load(path.read_text()) for path in sorted(EXPERIMENTS.glob("baselines/*.yaml"))]
    networks = [recipe["model"].pop("network")["class_path"].rsplit(".")[-1] for recipe in recipes]
    assert networks == ["DeepLabV3Plus", "Segformer", "Unet", "UPerNet"]
    assert all(recipe == recipes[0] for recipe in recipes)


def test_the_class_weights_are_the_official_ones() -> None:
    from hrseg.data.datasets.cityscapes import CITYSCAPES_CLASS_WEIGHTS

    weighted = [*EXPERIMENTS.glob("cityscapes/*484e.yaml"), *EXPERIMENTS.glob("cityscapes/*80k.yaml")]
    for recipe in [*weighted, *EXPERIMENTS.glob("baselines/*.yaml")]:
        arguments = yaml.safe_load(recipe.read_text())["model"]["loss"]["init_args"]
        # a network with an auxiliary head has a loss for each of its outputs
        losses = arguments.get("losses", {"out": {"init_args": arguments}})
        for loss in losses.values():
            assert tuple(loss["init_args"]["class_weights"]) == CITYSCAPES_CLASS_WEIGHTS, recipe.name
