"""Every recipe runs: one batch of fit, validate and test, with the network made tiny and the data generated."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as evaluator  # noqa: N813

from hrseg.cli import main
from hrseg.images import image_size

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
ONE_BATCH = EXPERIMENTS / "debug" / "one_batch.yaml"
OVERLAYS = sorted([*EXPERIMENTS.glob("options/*.yaml"), *EXPERIMENTS.glob("debug/*.yaml")])
RECIPES = sorted(set(EXPERIMENTS.rglob("*.yaml")) - set(OVERLAYS))

TINY = [
    *(
        "--model.network=hrnetv2_w18_small_v1",
        "--model.weights=null",
        "--trainer.devices=1",
        "--trainer.accelerator=cpu",
    ),
    *("--data.batch_size=2", "--data.crop_size=[64,96]", "--data.num_workers=0"),
]


def name_of(path: Path) -> str:
    return path.relative_to(EXPERIMENTS).as_posix()


# the fixture of tests/conftest.py that makes the data of each data module
ROOTS = {
    "hrseg.CamVidDataModule": "camvid_root",
    "hrseg.CityscapesDataModule": "cityscapes_root",
    "hrseg.FolderDataModule": "folder_root",
    "hrseg.LIPDataModule": "lip_root",
    "hrseg.PascalContextDataModule": "pascal_context_root",
}


def data_options(recipe: Path, request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    data = yaml.safe_load(recipe.read_text())["data"]["class_path"]
    if data == "hrseg.StreetScenesDataModule":
        return [
            f"--data.root={tmp_path / 'scenes'}",
            *("--data.num_train=2", "--data.num_val=2", "--data.num_test=2", "--data.image_size=[64,128]"),
        ]
    return [f"--data.root={request.getfixturevalue(ROOTS[data])}"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_recipe_runs(recipe: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    options = [f"--config={recipe}", f"--config={ONE_BATCH}", *TINY, *data_options(recipe, request, tmp_path)]
    if yaml.safe_load(recipe.read_text())["model"]["network"].endswith("_ocr"):
        # at all scales the head takes minutes; the protocols are those of the recipes without it
        options += ["--model.network=hrnetv2_w18_small_v1_ocr", "--model.test_protocol=whole"]
    assert main(["fit", *options, "--run_dir=run"]) == 0
    checkpoint = "--ckpt_path=run/checkpoints/best.ckpt"
    assert main(["validate", *options, checkpoint]) == 0
    assert main(["test", checkpoint]) == 0
    for file in ("config.yaml", "metrics.csv", "checkpoints/last.ckpt", "val/iou.csv", "test/scores.json"):
        assert (Path("run") / file).is_file()


@pytest.mark.parametrize("overlay", [path for path in OVERLAYS if path != ONE_BATCH], ids=name_of)
def test_an_overlay_runs_on_top_of_a_recipe(overlay: Path, camvid_root: Path) -> None:
    recipe = next(path for path in RECIPES if path.parent.name == "camvid")
    options = [
        f"--config={recipe}",
        f"--config={overlay}",
        f"--config={ONE_BATCH}",
        *TINY,
        f"--data.root={camvid_root}",
    ]
    if overlay.stem == "overfit":
        options += ["--trainer.limit_train_batches=null", "--trainer.check_val_every_n_epoch=1"]
    if overlay.stem == "compile":  # the whole compiler takes minutes
        pytest.skip("tests/test_task.py compiles a smaller network")
    assert main(["fit", *options, "--run_dir=run"]) == 0
    written = yaml.safe_load(Path("run/config.yaml").read_text())
    for section, settings in yaml.safe_load(overlay.read_text()).items():
        for key, value in settings.items():
            if key not in ("init_args", "callbacks+", "limit_train_batches", "check_val_every_n_epoch", "max_epochs"):
                assert written[section][key] == value, key


def test_an_official_recipe_on_genuine_frames(shared_data: Path) -> None:
    """Trains for two steps of full crops, and scores what `predict` writes with the official evaluator."""
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
    recipe: str, link: Callable[[Path, Path], list[str]], shared_data: Path, tmp_path: Path
) -> None:
    """A step of full crops, and one image in all the views of the paper's protocol."""
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


def test_the_class_weights_are_the_official_ones() -> None:
    from hrseg.data.cityscapes import CITYSCAPES_CLASS_WEIGHTS

    for recipe in EXPERIMENTS.glob("cityscapes/*484e.yaml"):
        arguments = yaml.safe_load(recipe.read_text())["model"]["loss"]["init_args"]
        # a network with an auxiliary head has a loss for each of its outputs
        losses = arguments.get("losses", {"out": {"init_args": arguments}})
        for loss in losses.values():
            assert tuple(loss["init_args"]["class_weights"]) == CITYSCAPES_CLASS_WEIGHTS, recipe.name
