from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask
from scipy.io import savemat
from scipy.sparse import csc_array

from hrseg.data.datasets.pascal_context import PASCAL_CONTEXT_60, PascalContextDataModule, voc_first_permutation
from hrseg.data.tools.prepare_pascal_context import (
    are_run_lengths,
    prepare_from_json,
    prepare_from_mat,
    prepare_from_voc_first,
)
from hrseg.errors import ConfigError, DataFileError, DataNotFoundError, HrsegError
from hrseg.utils.images import read_label, write_image

SIZES = {"2008_000001": (24, 40), "2008_000002": (40, 24), "2008_000003": (30, 30)}
# aeroplane, sky, tree, wood, background and ground in the numbering of the detail API
CATEGORIES = {2: 1, 360: 47, 420: 53, 458: 59, 0: 0, 189: 30}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "VOC2010"
    (folder / "JPEGImages").mkdir(parents=True)
    for name, size in SIZES.items():
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / "JPEGImages" / f"{name}.jpg")
    return folder


def label_of(root: Path, name: str) -> np.ndarray:
    return read_label(root / "SegmentationClassContext" / f"{name}.png")


def lists_of(root: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in (root / "ImageSets" / "SegmentationContext").iterdir()}


def detail() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of a JSON of overlapping masks, in mixed order of images; and the labels it describes."""
    rng = np.random.default_rng(0)
    labels = {name: np.zeros(size, np.uint8) for name, size in SIZES.items()}
    images = [
        {"image_id": int(name.replace("_", "")), "file_name": f"{name}.jpg", "phase": phase, "date": 1.5}
        for name, phase in zip(SIZES, ("train", "val", "train"), strict=True)
    ]
    annotations = []
    for number in range(30):
        name = list(SIZES)[number % 3]
        category = list(CATEGORIES)[rng.integers(len(CATEGORIES))]
        (top, left), (height, width) = rng.integers(0, 12, 2), rng.integers(4, 20, 2)
        pixels = np.zeros(SIZES[name], np.uint8, order="F")
        pixels[top : top + height, left : left + width] = 1
        for y, x in zip(*np.nonzero(pixels), strict=True):
            labels[name][y, x] = CATEGORIES[category]
        run_lengths = mask.encode(pixels)
        run_lengths["counts"] = run_lengths["counts"].decode()
        annotations.append(
            {
                "id": 100 + number,
                "image_id": int(name.replace("_", "")),
                "category_id": category,
                "parts": [],
                "segmentation": run_lengths,
            }
        )
    return {"info": {}, "annos_segmentation": annotations, "categories": [], "images": images}, labels


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def release(folder: Path) -> dict[str, np.ndarray]:
    """Writes labels of a release whose label ids are twice ours, and returns ours."""
    (folder / "trainval").mkdir(parents=True)
    names = {2 * number: name for number, name in enumerate(PASCAL_CONTEXT_60.class_names) if number} | {3: "air duct"}
    (folder / "labels.txt").write_text("".join(f"{number}: {name}\r\n" for number, name in names.items()))
    labels = {}
    for name, size in SIZES.items():
        numbers = np.random.default_rng(0).choice([*names], size).astype(np.uint16)
        savemat(folder / "trainval" / f"{name}.mat", {"LabelMap": numbers})
        labels[name] = np.where(numbers == 3, 0, numbers // 2)
    return labels


def write_voc_lists(root: Path) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("2008_000001\n2008_000003\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("2008_000002\n")


def test_labels_from_json_equal_those_painted_pixel_by_pixel(root: Path, tmp_path: Path) -> None:
    content, labels = detail()
    assert prepare_from_json(root, write(tmp_path / "a.json", content), workers=2) == {"train": 2, "val": 1}
    for name, label in labels.items():
        assert len(np.unique(label)) > 2
        np.testing.assert_array_equal(label_of(root, name), label)
    assert lists_of(root) == {"train": "2008_000001\n2008_000003\n", "val": "2008_000002\n"}
    data = PascalContextDataModule(root, 1, (32, 32), num_workers=0)
    data.setup("fit")
    assert len(list(data.train_dataloader())) == 2


def test_labels_in_voc_first_order_are_renumbered(root: Path, tmp_path: Path) -> None:
    lists = root / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2008_000001\n2008_000003\n")
    (lists / "val.txt").write_text("2008_000002\n")
    old = {name: np.random.default_rng(0).integers(0, 60, size, dtype=np.uint8) for name, size in SIZES.items()}
    for name, label in old.items():
        write_image(tmp_path / "old" / f"{name}.png", label)
    assert prepare_from_voc_first(root, tmp_path / "old", workers=1) == {"train": 2, "val": 1}
    voc_classes = {1: "aeroplane", 2: "bicycle", 15: "person", 20: "tvmonitor", 21: "bag", 54: "tree", 59: "wood"}
    for name, label in old.items():
        new = label_of(root, name)
        np.testing.assert_array_equal(new, np.array(voc_first_permutation())[label])
        for number, class_name in voc_classes.items():
            assert {PASCAL_CONTEXT_60.class_names[i] for i in new[label == number]} == {class_name}

    with pytest.raises(ConfigError, match="SegmentationClassContext is where the renumbered labels go"):
        prepare_from_voc_first(root, root / "SegmentationClassContext")
    write_image(tmp_path / "old" / "2008_000001.png", np.full(SIZES["2008_000001"], 60, np.uint8))
    with pytest.raises(DataFileError, match=r"2008_000001\.png holds \[60\]; expected class ids from 0 to 59"):
        prepare_from_voc_first(root, tmp_path / "old", workers=1, overwrite=True)


def test_labels_from_mat_are_mapped_by_class_name(root: Path, tmp_path: Path) -> None:
    labels = release(tmp_path / "release")
    write_voc_lists(root)
    assert prepare_from_mat(root, tmp_path / "release", workers=1) == {"train": 2, "val": 1}
    for name, label in labels.items():
        np.testing.assert_array_equal(label_of(root, name), label)
    assert lists_of(root) == {"train": "2008_000001\n2008_000003\n", "val": "2008_000002\n"}


def test_genuine_labels_survive_a_round_trip_through_json(shared_data: Path, tmp_path: Path) -> None:
    genuine = shared_data / "pascal_context"
    root = tmp_path / "VOC2010"
    root.mkdir()
    (root / "JPEGImages").symlink_to(genuine / "JPEGImages")
    categories = json.loads((genuine / "meta" / "class_maps.json").read_text())["detail_459_ids_sorted"]
    images, annotations = [], []
    for image_id, path in enumerate(sorted((genuine / "SegmentationClassContext").glob("*.png"))):
        images.append({"image_id": image_id, "file_name": f"{path.stem}.jpg", "phase": "val"})
        label = read_label(path)
        for class_id in np.unique(label):
            run_lengths = mask.encode(np.asfortranarray(label == class_id, np.uint8))
            run_lengths["counts"] = run_lengths["counts"].decode()
            annotation = {"id": len(annotations), "image_id": image_id, "category_id": categories[class_id]}
            annotations.append({**annotation, "segmentation": run_lengths})
    path = write(tmp_path / "a.json", {"images": images, "annos_segmentation": annotations})
    assert prepare_from_json(root, path) == {"train": 0, "val": 40}
    for image in images:
        name = Path(image["file_name"]).stem
        np.testing.assert_array_equal(
            label_of(root, name), read_label(genuine / "SegmentationClassContext" / f"{name}.png")
        )


def test_existing_labels_are_kept_unless_overwritten(root: Path, tmp_path: Path) -> None:
    content, labels = detail()
    path = write(tmp_path / "a.json", content)
    prepare_from_json(root, path, workers=1)
    first, second = (root / "SegmentationClassContext" / f"{name}.png" for name in list(SIZES)[:2])
    first.write_bytes(second.read_bytes())
    prepare_from_json(root, path, workers=1)
    assert first.read_bytes() == second.read_bytes()
    prepare_from_json(root, path, workers=1, overwrite=True)
    np.testing.assert_array_equal(read_label(first), labels["2008_000001"])


def first_annotation(**change: Any) -> Any:
    def spoil(content: dict[str, Any]) -> None:
        content["annos_segmentation"][0] |= change

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (first_annotation(category_id=3), r"annotation 100 in .*a\.json is of category 3, none of the 60 classes"),
        (
            first_annotation(segmentation={"counts": "abc\n", "size": [24, 40]}),
            r"annotation 100 of 2008_000001 cannot be decoded: its counts 'abc\\n' do not run over 24x40 pixels",
        ),
        (first_annotation(segmentation={}), r"annotation 100 is None and its image"),
        *[
            (
                first_annotation(segmentation={"counts": counts, "size": [24, 40]}),
                r"annotation 100 of .* cannot be deco",
            )
            for counts in (None, 7, [960], "", "`", "P~" * 99, "oooo0", "\0", "\ud800", "o" * 9999)
        ],
        *[
            (
                first_annotation(segmentation={"counts": "Pn0", "size": size}),
                r"annotation 100 is .*expected equal sizes",
            )
            for size in ([960], 960, None, [-24, -40], [2**31, 2**31], ["24", "40"], [24.0, 40.0], [[24], [40]])
        ],
        *[
            (first_annotation(**{key: value}), rf"a\.json: entry 0 of annos_segmentation has .*{key}")
            for key in ("id", "image_id", "category_id", "segmentation")
            for value in (None, [1], True, 1.5, "x")
        ],
        *[
            (
                lambda content, value=value: content["images"][0].update(file_name=value),
                r"entry 0 of images has .*file_n",
            )
            for value in (7, None, ["a.jpg"], {})
        ],
        *[
            (
                lambda content, value=value: content["images"][0].update(file_name=value),
                r"image 2008000001 has the file ",
            )
            for value in ("", "a\0b.jpg", "x" * 300)
        ],
        (lambda content: content["images"][1].update(image_id=2008000001), r"two images have the id 2008000001"),
        (
            lambda content: content["images"][1].update(file_name="2008_000001.jpg"),
            r"image 2008000002 has the file name '2008_000001\.jpg'",
        ),
        (lambda content: content.update(images=[*content["images"][:1], [1]]), r"entry 1 of images has \[1\]"),
        (
            first_annotation(segmentation={"counts": "0", "size": [0, 0]}),
            r"annotation 100 is 0x0 and its image .*2008_000001\.jpg 24x40 \(height x width\); expected equal sizes",
        ),
        (lambda content: content.pop("images"), r"a\.json has no images; expected trainval_merged\.json"),
        (lambda content: content.pop("annos_segmentation"), r"a\.json has no annos_segmentation"),
        (lambda content: content["images"][1].pop("phase"), r"entry 1 of images has .*None\), not image_id.*phase"),
        (lambda content: content["images"].append(3), r"entry 3 of images has 3, not image_id \(int\)"),
    ],
)
def test_an_invalid_json_is_a_one_line_error_and_leaves_no_lists(
    root: Path, tmp_path: Path, spoil: Any, message: str
) -> None:
    content, _ = detail()
    spoil(content)
    with pytest.raises(DataFileError, match=message) as caught:
        prepare_from_json(root, write(tmp_path / "a.json", content), workers=1)
    assert "\n" not in str(caught.value)
    assert not (root / "ImageSets").exists()


def test_run_lengths_are_checked_as_pycocotools_reads_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(1, 60, 2)
        pixels = np.asfortranarray(rng.random((height, width)) < rng.random(), np.uint8)
        counts = mask.encode(pixels)["counts"].decode()
        assert are_run_lengths(counts, height * width)
        assert not are_run_lengths(counts, height * width + 1)
        assert not are_run_lengths(counts[:-1], height * width)


@pytest.mark.parametrize("opening", ["[", '{"a": '])
def test_endlessly_nested_lists_are_reported(opening: str, root: Path, tmp_path: Path) -> None:
    """Regression: the parser's paths filled the memory, and the process was killed."""
    (tmp_path / "a.json").write_text(opening * 100_000)
    with pytest.raises(DataFileError, match=r"a\.json is truncated or no JSON"):
        prepare_from_json(root, tmp_path / "a.json", workers=1)


def test_a_truncated_json_is_reported_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    content, _ = detail()
    path = write(tmp_path / "a.json", content)
    text = path.read_text()
    for end in (0, len(text) // 3, len(text) - 1):
        path.write_text(text[:end])
        with pytest.raises(DataFileError, match=r"a\.json is truncated or no JSON; .*, download it again"):
            prepare_from_json(root, path, workers=1)
    path.unlink()
    with pytest.raises(DataFileError, match=r"a\.json cannot be read: No such file or directory; expected"):
        prepare_from_json(root, path, workers=1)
    assert [file.name for file in root.iterdir()] == ["JPEGImages"]


def test_a_missing_image_is_reported_and_leaves_no_lists(root: Path, tmp_path: Path) -> None:
    content, _ = detail()
    path = write(tmp_path / "a.json", content)
    (root / "JPEGImages" / "2008_000003.jpg").unlink()
    with pytest.raises(DataFileError, match=r"2008_000003\.jpg cannot be read: No such file"):
        prepare_from_json(root, path, workers=1)
    assert not (root / "ImageSets").exists()
    with pytest.raises(DataNotFoundError, match=r"no folder .*elsewhere/JPEGImages; give the folder VOC2010"):
        prepare_from_json(tmp_path / "elsewhere", path, workers=1)


def spoiled_mat(name: str, content: bytes | dict[str, Any]) -> Any:
    def spoil(root: Path, folder: Path) -> None:
        path = folder / "trainval" / f"{name}.mat"
        path.unlink()
        if isinstance(content, dict):
            savemat(path, content)
        elif content:
            path.write_bytes(content)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoiled_mat("2008_000001", {"Labels": np.zeros((24, 40))}), r"2008_000001\.mat holds no LabelMap"),
        (spoiled_mat("2008_000001", b"half"), r"2008_000001\.mat cannot be read: .*truncated"),
        (spoiled_mat("2008_000001", b""), r"2008_000001\.mat cannot be read: .*No such file"),
        (
            spoiled_mat("2008_000001", {"LabelMap": np.zeros((40, 24))}),
            r"2008_000001\.mat is 40x24 and its image .*2008_000001\.jpg 24x40",
        ),
        (spoiled_mat("2008_000001", {"LabelMap": "abc"}), r"LabelMap is of class char; expected uint16"),
        (spoiled_mat("2008_000001", {"LabelMap": np.array([["a"]], object)}), r"LabelMap is of class cell"),
        (spoiled_mat("2008_000001", {"LabelMap": csc_array((24, 40))}), r"LabelMap is of class sparse"),
        (spoiled_mat("2008_000001", {"LabelMap": {"a": 1}}), r"LabelMap is of class struct"),
        (spoiled_mat("2008_000001", {"LabelMap": np.zeros((24, 40, 3), np.uint16)}), r"\.mat is 24x40x3 and its image"),
        *[
            (
                spoiled_mat("2008_000001", {"LabelMap": np.full((24, 40), value)}),
                r"LabelMap holds values beyond 0 to 65535",
            )
            for value in (65536, -1, 0.5, np.nan, np.inf, 1j)
        ],
        *[
            (
                lambda root, folder, value=value: (folder / "labels.txt").write_text(
                    (folder / "labels.txt").read_text().replace("2: aeroplane", f"{value}: aeroplane")
                ),
                message,
            )
            for value, message in {
                "-1": "gives aeroplane the label -1; expected 0 to 65535",
                "65536": "the label 65536",
                "9" * 5000: "cannot be read",
                "\0": "holds NUL bytes",
            }.items()
        ],
        (
            lambda root, folder: (folder / "labels.txt").write_bytes(b"\xff\xfe2"),
            r"labels\.txt cannot be read: .*UTF-8",
        ),
        (
            lambda root, folder: (folder / "labels.txt").write_text("1: accordion\n2: aeroplane\n"),
            r"labels\.txt does not name bag, bed, .*, wood; expected the 459 labels",
        ),
        (
            lambda root, folder: (folder / "labels.txt").write_text("aeroplane: 2\n"),
            r"labels\.txt cannot be read: .*; expected lines such as `2: aeroplane`",
        ),
        (lambda root, folder: (folder / "labels.txt").unlink(), r"labels\.txt cannot be read: .*No such file"),
        (
            lambda root, folder: (root / "ImageSets" / "Main" / "val.txt").unlink(),
            r"list .*Main/val\.txt cannot be read",
        ),
    ],
)
def test_faults_of_a_release_are_one_line_errors(root: Path, tmp_path: Path, spoil: Any, message: str) -> None:
    release(tmp_path / "release")
    write_voc_lists(root)
    spoil(root, tmp_path / "release")
    with pytest.raises(HrsegError, match=message) as caught:
        prepare_from_mat(root, tmp_path / "release", workers=1)
    assert "\n" not in str(caught.value)
    assert not (root / "ImageSets" / "SegmentationContext").exists()
