"""The generated scenes: reproducible, in the layout of Cityscapes, with all classes, and not trivial."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.csHelpers import getCoreImageFileName, getCsFileInfo

from hrseg import CITYSCAPES, StreetScenesDataModule
from hrseg.data.datasets.street_scenes import Scene, files, generate_scene, write_scenes
from hrseg.data.datasets.street_scenes.canvas import Camera, Canvas, Dice, Light
from hrseg.errors import ConfigError, DataNotFoundError, UnknownNameError

SPLITS = ("train", "val", "test")
NUMBER = 40  # scenes per split under test: the first ones of every default split
WITH_INSTANCES = {24, 25, 26, 27, 28, 31, 32, 33}


@dataclass
class Stack:
    """The scenes of a split: images (N, H, W, 3), train ids (N, H, W), instance ids (N, H, W)."""

    images: np.ndarray
    targets: np.ndarray
    instances: np.ndarray


@pytest.fixture(scope="module")
def stacks() -> dict[str, Stack]:
    def stack(split: str) -> Stack:
        scenes = [generate_scene(0, split, index) for index in range(NUMBER)]
        label_ids = np.stack([scene.label_ids for scene in scenes])
        targets = np.stack([CITYSCAPES.encode(label, "memory") for label in label_ids])
        return Stack(np.stack([scene.image for scene in scenes]), targets, np.stack([s.instance_ids for s in scenes]))

    return {split: stack(split) for split in SPLITS}


def digest(scene: Scene) -> str:
    parts = (scene.image, scene.label_ids, scene.instance_ids.astype("<u2"))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


@pytest.mark.parametrize(
    ("seed", "split", "index", "size", "expected"),
    [
        (0, "train", 0, (128, 256), "14598863803460c5fecbcb950d8d054cf3f1757c70a9a434f18b44c99075d269"),
        (0, "val", 3, (128, 256), "af12be558b09f2825d9a1f201606797c054ebd08a4c021a8c9772b3e615d0f79"),
        (7, "test", 511, (96, 161), "69a36d1f5138bee7502131a7f1176905d8322ccec910448fefe57ba989466317"),
    ],
)
def test_a_scene_is_the_same_on_every_machine(
    seed: int, split: str, index: int, size: tuple[int, int], expected: str
) -> None:
    assert digest(generate_scene(seed, split, index, size)) == expected


def test_random_choices_are_the_documented_stream_of_pcg64() -> None:
    raw = np.random.PCG64(np.random.SeedSequence((3, 1, 4))).random_raw(3)
    dice = Dice(3, 1, 4)
    assert dice.integer(10, 19) == 10 + int(raw[0]) % 10
    assert dice.uniform(2.0, 4.0) == 2.0 + 2.0 * (int(raw[1]) / 2.0**64)
    assert dice.noise(2, 4).tobytes() == int(raw[2]).to_bytes(8, "little")


def test_size_changes_the_resolution_not_the_scene() -> None:
    small, large = generate_scene(0, "train", 1, (128, 256)), generate_scene(0, "train", 1, (256, 512))
    assert large.image.shape == (256, 512, 3)
    assert (small.label_ids == large.label_ids[1::2, 1::2]).mean() > 0.95


def test_no_scene_occurs_twice(stacks: dict[str, Stack]) -> None:
    images = [image.tobytes() for stack in stacks.values() for image in stack.images]
    assert len(set(images)) == len(SPLITS) * NUMBER
    assert digest(generate_scene(1, "train", 0)) != digest(generate_scene(0, "train", 0))


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_occurs_often_enough_to_be_learnt(stacks: dict[str, Stack], split: str) -> None:
    targets = stacks[split].targets
    for train_id, name in enumerate(CITYSCAPES.class_names):
        found = targets == train_id
        assert found.any(axis=(1, 2)).mean() >= 0.25, f"{name} occurs in too few scenes"
        assert 0.005 <= found.mean() <= 0.35, f"{name} has a share of {found.mean():.3f} of the pixels"
    void = (targets == CITYSCAPES.ignore_index).mean()
    assert 0.0 < void < 0.1


def test_instances_are_numbered_like_those_of_cityscapes(stacks: dict[str, Stack]) -> None:
    for stack in stacks.values():
        for target, instances in zip(stack.targets, stack.instances, strict=True):
            labels = np.where(instances >= 1000, instances // 1000, instances).astype(np.uint8)
            assert (CITYSCAPES.encode(labels, "memory") == target).all()
            assert set(np.unique(labels[instances >= 1000])) <= WITH_INSTANCES
            assert not set(np.unique(instances)) & WITH_INSTANCES


def mean_iou_of_lookup(train_keys: np.ndarray, train: Stack, val_keys: np.ndarray, val: Stack) -> float:
    """The mean IoU of the best lookup table from integer keys, of a target's shape, to classes."""
    votes = np.zeros((int(max(train_keys.max(), val_keys.max())) + 1, CITYSCAPES.num_classes))
    valid = train.targets != CITYSCAPES.ignore_index
    np.add.at(votes, (train_keys[valid], train.targets[valid]), 1)
    rarity = 1 / np.maximum(votes.sum(axis=0), 1)
    scores = []
    for weighted in (votes, votes * rarity):  # the most frequent class, or the one most typical of the key
        preds, valid = weighted.argmax(axis=1)[val_keys], val.targets != CITYSCAPES.ignore_index
        ious = []
        for train_id in range(CITYSCAPES.num_classes):
            truth, guess = val.targets == train_id, (preds == train_id) & valid
            ious.append((truth & guess).sum() / (truth | guess).sum())
        scores.append(float(np.mean(ious)))
    return max(scores)


def test_color_alone_does_not_tell_the_class(stacks: dict[str, Stack]) -> None:
    def keys(stack: Stack) -> np.ndarray:
        red, green, blue = np.moveaxis(stack.images.astype(np.int64) // 16, -1, 0)
        return (red * 16 + green) * 16 + blue

    train, val = stacks["train"], stacks["val"]
    assert mean_iou_of_lookup(keys(train), train, keys(val), val) < 0.30


def test_position_alone_does_not_tell_the_class(stacks: dict[str, Stack]) -> None:
    def keys(stack: Stack) -> np.ndarray:
        height, width = stack.targets.shape[1:]
        cells = np.arange(height)[:, None] // 4 * width + np.arange(width) // 4
        return np.broadcast_to(cells, stack.targets.shape)

    train, val = stacks["train"], stacks["val"]
    assert mean_iou_of_lookup(keys(train), train, keys(val), val) < 0.25


def canvas(size: tuple[int, int] = (64, 128)) -> Canvas:
    camera = Camera(focal=100.0, column=64.0, row=32.0, height=1.5)
    light = Light(sun=(1.0, 0.0), shadow=0.5, shade=0.5, haze=(200, 200, 200), visibility=1e9)
    return Canvas(size, camera, light, Dice(0))


def test_a_face_covers_what_the_pinhole_camera_says() -> None:
    """A board 2 m wide and 1 m high, 10 m away: 20 x 10 pixels, whose foot is 15 rows below the horizon."""
    here = canvas()
    here.front(-1.0, 10.0, 2.0, 1.0, 11).box(0.0, 0.0, 2.0, 1.0, (90, 90, 90))
    rows, columns = np.nonzero(here.ids)
    assert abs(rows.min() - 37) <= 1
    assert abs(rows.max() - 46) <= 1
    assert abs(columns.min() - 54) <= 1
    assert abs(columns.max() - 73) <= 1


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("kind", ["front", "side"])
def test_polygons_and_textures_of_a_face_agree(kind: str, flipped: bool) -> None:
    def face(ident: int, here: Canvas):
        if kind == "front":
            return here.front(-2.0, 8.0, 4.0, 2.0, ident, flipped=flipped)
        return here.side(3.0, 6.0, 12.0, 2.0, ident, flipped=flipped)

    drawn, textured = canvas(), canvas()
    face(1, drawn).box(0.5, 0.2, 2.5, 1.4, (9, 9, 9))
    surface = face(1, textured)
    u, v = surface.uv
    surface.paint((u >= 0.5) & (u < 2.5) & (v >= 0.2) & (v < 1.4), (9, 9, 9))
    differing = cv2.erode((drawn.ids != textured.ids).astype(np.uint8), np.ones((3, 3), np.uint8))
    assert textured.ids.any()
    assert not differing.any(), "they differ by more than the outline"


def test_files_are_laid_out_like_cityscapes(tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    write_scenes(root, {"train": 2, "val": 1, "test": 1}, (64, 128), seed=5)
    images = sorted(root.glob("leftImg8bit/*/*/*_leftImg8bit.png"))
    assert [path.parent.parent.name for path in images] == ["test", "train", "train", "val"]
    first = next(path for path in images if "train" in path.parts)
    info = getCsFileInfo(str(first))
    assert info.city == first.parent.name
    label = root / "gtFine" / "train" / info.city / f"{getCoreImageFileName(str(first))}_gtFine_labelIds.png"
    instances = label.with_name(label.name.replace("labelIds", "instanceIds"))
    scene = generate_scene(5, "train", 0, (64, 128))
    assert (cv2.cvtColor(cv2.imread(str(first)), cv2.COLOR_BGR2RGB) == scene.image).all()
    for path, expected in ((label, scene.label_ids), (instances, scene.instance_ids)):
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == expected.dtype
        assert (stored == expected).all()


def test_complete_scenes_are_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "scenes"
    write_scenes(root, {"train": 1}, (64, 128))
    monkeypatch.setattr(files, "generate_scene", never)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_scenes(root, {"train": 1}, (64, 128))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def never(*args: object) -> Scene:
    raise AssertionError("drawn again")


def test_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seed: int, split: str, index: int, size: tuple[int, int]) -> Scene:
        if index == 1:
            raise KeyboardInterrupt
        return generate_scene(seed, split, index, size)

    monkeypatch.setattr(files, "generate_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "scenes", {"train": 2}, (64, 128))
    assert [path.name for path in tmp_path.iterdir()] == [".scenes.lock"]  # empty and released


def test_scenes_whose_marker_was_removed_are_drawn_again(tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    write_scenes(root, {"train": 1}, (64, 128))
    (root / files.MARKER).unlink()
    (root / "leftover").touch()
    write_scenes(root, {"train": 1}, (64, 128))
    assert files.is_complete(root)
    assert not (root / "leftover").exists()


def test_without_locks_two_processes_do_not_interfere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "locked", nullcontext)
    root = tmp_path / "scenes"

    def overtaken(seed: int, split: str, index: int, size: tuple[int, int]) -> Scene:
        monkeypatch.setattr(files, "generate_scene", generate_scene)
        write_scenes(root, {"train": 1}, (64, 128))  # the other process
        return generate_scene(seed, split, index, size)

    monkeypatch.setattr(files, "generate_scene", overtaken)
    write_scenes(root, {"train": 1}, (64, 128))
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]
    assert files.is_complete(root)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., StreetScenesDataModule]:
    def build(**settings: object) -> StreetScenesDataModule:
        defaults = {"root": tmp_path, "num_train": 2, "num_val": 1, "num_test": 1, "image_size": (64, 128)}
        return StreetScenesDataModule(
            **{**defaults, "batch_size": 2, "crop_size": (64, 128), "num_workers": 0, **settings}  # type: ignore[arg-type]
        )

    return build


def test_data_module_serves_labelled_batches_of_all_splits(tiny: Callable[..., StreetScenesDataModule]) -> None:
    data = tiny()
    data.prepare_data()
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 64, 128)
    assert batch["target"].shape == (2, 64, 128)
    assert len(list(data.val_dataloader())) == 1
    tested = next(iter(data.test_dataloader()))
    expected = generate_scene(0, "test", 0, (64, 128))
    assert (tested["target"][0].numpy() == CITYSCAPES.encode(expected.label_ids, "memory")).all()
    assert "target" not in next(iter(data.predict_dataloader()))


def test_other_settings_get_another_folder(tiny: Callable[..., StreetScenesDataModule]) -> None:
    roots = [tiny().root, tiny(scene_seed=1).root, tiny(num_train=3).root, tiny(image_size=(64, 160)).root]
    assert len(set(roots)) == len(roots)


def test_home_decides_where_scenes_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    assert StreetScenesDataModule().root.parent == tmp_path / "home"
    monkeypatch.delenv("HRSEG_HOME")
    assert StreetScenesDataModule().root.parent == Path("~/.cache/hrseg").expanduser()


def test_invalid_settings_fail_before_anything_is_drawn(tiny: Callable[..., StreetScenesDataModule]) -> None:
    with pytest.raises(ConfigError, match=r"image_size is \(32, 128\); expected 64"):
        tiny(image_size=(32, 128))
    with pytest.raises(ConfigError, match="expected 1 scene or more per split"):
        tiny(num_val=0)
    for name in ("num_train", "num_val", "num_test"):  # whose names would fill the memory
        with pytest.raises(ConfigError, match=r"1000000000000.*expected 1 scene or more per split, 1000000 at most"):
            tiny(**{name: 10**12})
    with pytest.raises(ConfigError, match=r"a scene of data.image_size would have 1000000x1000000 pixels"):
        tiny(image_size=(10**6, 10**6))
    with pytest.raises(UnknownNameError, match="train_extra"):
        tiny(train_split="train_extra")
    with pytest.raises(DataNotFoundError, match="prepare_data"):
        tiny().setup("fit")
