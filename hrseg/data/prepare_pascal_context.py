"""Label files and lists of PASCAL-Context: from the detail API's JSON, MATLAB files, or labels in VOC-first order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hrseg.data.lists import read_list
from hrseg.data.parallel import map_in_processes
from hrseg.errors import ConfigError, DataFileError, DataNotFoundError
from hrseg.files import replacing
from hrseg.images import read_image, read_label, write_image

# the category id of each class in the JSON, background first
_CATEGORY_IDS = (
    *(0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85),
    *(98, 104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296),
    *(308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
_JSON = "expected trainval_merged.json of the detail API (SHA-1 169325d9f7e9047537fedca7b04de4dddf10b881)"

Mask = tuple[int, int, dict[str, Any]]  # annotation id, class id, run lengths

# draws the label, (H, W) uint8, of an image file of a (height, width)
Draw = Callable[[Path, tuple[int, int]], np.ndarray]


def prepare_from_json(root: Path, path: Path, workers: int | None = None, overwrite: bool = False) -> dict[str, int]:
    """Writes the labels and lists that the detail API gives: 4,996 images for training, 5,104 for validation.

    Args:
        root: The folder VOC2010, with `JPEGImages`.
        path: The file `trainval_merged.json`; it is read piece by piece.
        workers: Number of processes; None for one per core.
        overwrite: Whether labels that are there already are made again.

    Returns:
        Images per split.

    Raises:
        DataFileError: A file cannot be read or holds something else, or a label does not fit its image.
        DataNotFoundError: There are no images.

    Source:
        zhanghang1989/detail-api, PythonAPI/detail/__init__.py.
    """
    splits: dict[str, list[str]] = {"train": [], "val": []}
    names: dict[int, str] = {}
    for image_id, file_name, phase in _read_array(path, "images", "image_id", "file_name", "phase"):
        if phase in splits:
            names[image_id] = Path(file_name).stem
            splits[phase].append(names[image_id])
    masks: dict[str, list[Mask]] = {name: [] for name in names.values()}
    class_ids = {category_id: class_id for class_id, category_id in enumerate(_CATEGORY_IDS)}
    keys = ("id", "image_id", "category_id", "segmentation")
    for annotation_id, image_id, category_id, segmentation in _read_array(path, "annos_segmentation", *keys):
        if category_id not in class_ids:
            raise DataFileError(
                f"annotation {annotation_id} in {path} is of category {category_id}, none of the 60 classes; {_JSON}"
            )
        if image_id in names:
            masks[names[image_id]].append((annotation_id, class_ids[category_id], segmentation))
    draws = {name: partial(_draw_masks, of_image) for name, of_image in masks.items()}
    return _write(root, splits, draws, workers, overwrite)


def prepare_from_mat(root: Path, folder: Path, workers: int | None = None, overwrite: bool = False) -> dict[str, int]:
    """Writes the labels of the original release, split as VOC2010 is: 4,998 images and 5,105.

    Args:
        root: The folder VOC2010, with `JPEGImages` and `ImageSets/Main`.
        folder: The release, with `labels.txt` and `trainval/*.mat`.
        workers: Number of processes; None for one per core.
        overwrite: Whether labels that are there already are made again.

    Returns:
        Images per split.

    Raises:
        DataFileError: A file cannot be read or holds something else, or a label does not fit its image.
        DataNotFoundError: There are no images.
    """
    class_ids = _read_label_names(folder / "labels.txt")
    lists = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in ("train", "val")}
    splits = {split: read_list(path) for split, path in lists.items()}
    draws = {
        name: partial(_draw_mat, folder / "trainval" / f"{name}.mat", class_ids)
        for names in splits.values()
        for name in names
    }
    return _write(root, splits, draws, workers, overwrite)


def prepare_from_voc_first(
    root: Path, folder: Path, workers: int | None = None, overwrite: bool = False
) -> dict[str, int]:
    """Writes the labels of another folder, which are in VOC-first order, in the alphabetical one.

    Args:
        root: The folder VOC2010, with `JPEGImages` and `ImageSets/SegmentationContext`.
        folder: The labels to renumber, `NAME.png`; not the folder that the labels are written to.
        workers: Number of processes; None for one per core.
        overwrite: Whether labels that are there already are made again.

    Returns:
        Images per split.

    Raises:
        ConfigError: The folder is the one that the labels are written to.
        DataFileError: A file cannot be read or holds something else, or a label does not fit its image.
        DataNotFoundError: There are no images.
    """
    from hrseg.data.pascal_context import voc_first_permutation

    if folder.resolve() == _label_file(root, "").parent.resolve():
        raise ConfigError(f"{folder} is where the renumbered labels go; rename it first, and give the new name")
    splits = {split: read_list(_list_file(root, split)) for split in ("train", "val")}
    class_ids = np.array(voc_first_permutation(), np.uint8)
    draws = {
        name: partial(_draw_renumbered, folder / f"{name}.png", class_ids)
        for names in splits.values()
        for name in names
    }
    return _write(root, splits, draws, workers, overwrite)


def _read_array(path: Path, array: str, *keys: str) -> Iterator[tuple[Any, ...]]:
    """Yields the values under `keys` of each entry of an array of a JSON file, with one entry in memory."""
    import ijson

    is_empty = True
    try:
        with path.open("rb") as file:
            for entry in ijson.items(file, f"{array}.item"):
                is_empty = False
                yield tuple(entry[key] for key in keys)
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}; {_JSON}") from error
    except ijson.JSONError as error:
        raise DataFileError(f"{path} is truncated or no JSON; {_JSON}, download it again") from error
    except (KeyError, TypeError) as error:
        raise DataFileError(f"{path}: an entry of {array} lacks one of {', '.join(keys)}; {_JSON}") from error
    if is_empty:
        raise DataFileError(f"{path} has no {array}; {_JSON}")


def _draw_masks(masks: Sequence[Mask], image: Path, size: tuple[int, int]) -> np.ndarray:
    """Draws masks, each over those before."""
    from pycocotools import mask

    label = np.zeros(size, np.uint8)
    for annotation_id, class_id, run_lengths in masks:
        try:
            pixels = mask.decode(run_lengths)
        except (KeyError, TypeError, ValueError) as error:
            raise DataFileError(
                f"annotation {annotation_id} of {image.stem} cannot be decoded: {error}; {_JSON}"
            ) from error
        _require_size(f"annotation {annotation_id}", pixels, image, size)
        label[pixels == 1] = class_id
    return label


def _read_label_names(path: Path) -> np.ndarray:
    """Reads the names of the 459 labels and returns the class id of each label, 0 where it is no class."""
    from hrseg.data.pascal_context import PASCAL_CONTEXT_60  # torch: not in the processes that draw

    names = PASCAL_CONTEXT_60.class_names[1:]
    try:
        lines = path.read_text().splitlines()
        labels = {name.strip(): int(label) for label, _, name in (line.partition(":") for line in lines) if name}
    except (OSError, ValueError) as error:
        raise DataFileError(f"{path} cannot be read: {error}; expected lines such as `2: aeroplane`") from error
    if missing := [name for name in names if name not in labels]:
        raise DataFileError(
            f"{path} does not name {', '.join(missing)}; expected the 459 labels of the original release"
        )
    class_ids = np.zeros(2**16, np.uint8)
    class_ids[[labels[name] for name in names]] = range(1, 60)
    return class_ids


def _draw_mat(path: Path, class_ids: np.ndarray, image: Path, size: tuple[int, int]) -> np.ndarray:
    from scipy.io import loadmat

    try:
        with path.open("rb") as file:
            content = loadmat(file)
    except Exception as error:  # what a file that is truncated or corrupt raises has no class of its own
        raise DataFileError(f"{path} cannot be read: {error}; extract the original release again") from error
    if "LabelMap" not in content:
        raise DataFileError(f"{path} holds no LabelMap; expected a label of the original release")
    label: np.ndarray = class_ids[content["LabelMap"].astype(np.uint16)]
    _require_size(str(path), label, image, size)
    return label


def _draw_renumbered(path: Path, class_ids: np.ndarray, image: Path, size: tuple[int, int]) -> np.ndarray:
    old = read_label(path)
    _require_size(str(path), old, image, size)
    if (strange := np.setdiff1d(old, range(60))).size:
        raise DataFileError(f"{path} holds {strange[:5].tolist()}; expected class ids from 0 to 59")
    label: np.ndarray = class_ids[old]
    return label


def _require_size(what: str, label: np.ndarray, image: Path, size: tuple[int, int]) -> None:
    if label.shape != size:
        found = "x".join(map(str, label.shape))
        raise DataFileError(
            f"{what} is {found} and its image {image} {size[0]}x{size[1]} (height x width); expected equal sizes"
        )


def _write(
    root: Path,
    splits: Mapping[str, Sequence[str]],
    draws: Mapping[str, Draw],
    workers: int | None,
    overwrite: bool,
) -> dict[str, int]:
    """Writes all labels in several processes, and after them the lists."""
    if not (root / "JPEGImages").is_dir():
        raise DataNotFoundError(
            f"no folder {root / 'JPEGImages'}; give the folder VOC2010 of VOCtrainval_03-May-2010.tar"
        )
    missing = [name for name in draws if overwrite or not _label_file(root, name).is_file()]
    for _ in map_in_processes(
        partial(_write_label, root), [(name, draws[name]) for name in missing], "labels", workers
    ):
        pass
    for split, names in splits.items():
        with replacing(_list_file(root, split)) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in names))
    return {split: len(names) for split, names in splits.items()}


def _write_label(root: Path, label: tuple[str, Draw]) -> None:
    name, draw = label
    image = root / "JPEGImages" / f"{name}.jpg"
    height, width, _ = read_image(image).shape
    write_image(_label_file(root, name), draw(image, (height, width)))


def _list_file(root: Path, split: str) -> Path:
    return root / "ImageSets" / "SegmentationContext" / f"{split}.txt"


def _label_file(root: Path, name: str) -> Path:
    return root / "SegmentationClassContext" / f"{name}.png"
