"""Writes labels and lists of PASCAL-Context from the detail API's JSON, MATLAB files, or labels in VOC-first order."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from hrseg.errors import ConfigError, DataFileError, DataNotFoundError
from hrseg.utils.files import replacing
from hrseg.utils.images import read_file, read_image, read_label, write_image
from hrseg.utils.packages import require_packages
from hrseg.utils.parallel import map_in_processes
from hrseg.utils.text_files import read_list, read_text

_JSON = "expected trainval_merged.json of the detail API (SHA-1 169325d9f7e9047537fedca7b04de4dddf10b881)"

_MOST_NESTED = 100
_LONGEST_NAME = 250  # bytes, without the extension
_GREATEST_LABEL = 2**16 - 1
_MATLAB_TYPES = {"single", "double"} | {f"{sign}int{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)}

Mask = tuple[int, int, dict[str, Any]]  # annotation id, class id, run lengths

# draws the label, (H, W) uint8, of an image file of size (height, width)
Draw = Callable[[Path, tuple[int, int]], np.ndarray]


def prepare_from_json(root: Path, path: Path, workers: int | None = None, overwrite: bool = False) -> dict[str, int]:
    """Writes labels and lists of the detail API: 4,996 images for training, 5,104 for validation.

    Args:
        root: The folder VOC2010, with `JPEGImages`.
        path: The file `trainval_merged.json`, which is streamed.
        workers: Number of processes; None for one per core.
        overwrite: Whether existing labels are overwritten.

    Returns:
        Images per split.

    Raises:
        ConfigError: ijson or pycocotools is missing.
        DataFileError: A file cannot be read or holds something else, or a label does not fit its image.
        DataNotFoundError: There are no images.

    Source:
        zhanghang1989/detail-api, PythonAPI/detail/__init__.py.
    """
    require_packages("prepare", "ijson", "pycocotools")
    splits: dict[str, list[str]] = {"train": [], "val": []}
    names: dict[int, str] = {}
    taken: set[str] = set()
    for image_id, file_name, phase in _read_array(path, "images", image_id=int, file_name=str, phase=str):
        if phase in splits:
            name = Path(file_name).stem
            if not (name.isprintable() and 0 < len(name.encode()) <= _LONGEST_NAME) or name in taken:
                raise DataFileError(f"{path}: image {image_id} has the file name {file_name!r:.80}; {_JSON}")
            if image_id in names:
                raise DataFileError(f"{path}: two images have the id {image_id}; {_JSON}")
            names[image_id] = name
            taken.add(name)
            splits[phase].append(name)
    masks: dict[str, list[Mask]] = {name: [] for name in names.values()}

    from hrseg.data.datasets.pascal_context import CATEGORY_IDS  # torch: not in the processes that draw

    class_ids = {category_id: class_id for class_id, category_id in enumerate(CATEGORY_IDS)}
    types = {"id": int, "image_id": int, "category_id": int, "segmentation": dict}
    for annotation_id, image_id, category_id, segmentation in _read_array(path, "annos_segmentation", **types):
        if category_id not in class_ids:
            raise DataFileError(
                f"annotation {annotation_id} in {path} is of category {category_id}, none of the 60 classes; {_JSON}"
            )
        if image_id in names:
            masks[names[image_id]].append((annotation_id, class_ids[category_id], segmentation))
    draws = {name: partial(_draw_masks, of_image) for name, of_image in masks.items()}
    return _write(root, splits, draws, workers, overwrite)


def prepare_from_mat(root: Path, folder: Path, workers: int | None = None, overwrite: bool = False) -> dict[str, int]:
    """Writes the labels of the original release, split as in VOC2010: 4,998 and 5,105 images.

    Further arguments, result and errors are those of `prepare_from_json`.

    Args:
        root: The folder VOC2010, with `JPEGImages` and `ImageSets/Main`.
        folder: The release, with `labels.txt` and `trainval/*.mat`.

    Raises:
        ConfigError: scipy is missing.
    """
    require_packages("prepare", "scipy")
    class_ids = _read_label_names(folder / "labels.txt")
    lists = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in ("train", "val")}
    splits = {split: read_list(path) for split, path in lists.items()}
    names = chain(*splits.values())
    draws = {name: partial(_draw_mat, folder / "trainval" / f"{name}.mat", class_ids) for name in names}
    return _write(root, splits, draws, workers, overwrite)


def prepare_from_voc_first(
    root: Path, folder: Path, workers: int | None = None, overwrite: bool = False
) -> dict[str, int]:
    """Renumbers labels in VOC-first order to alphabetical order.

    Further arguments, result and errors are those of `prepare_from_json`.

    Args:
        root: The folder VOC2010, with `JPEGImages` and `ImageSets/SegmentationContext`.
        folder: The labels to renumber, `NAME.png`; not the output folder, `SegmentationClassContext`.

    Raises:
        ConfigError: `folder` is the output folder.
    """
    from hrseg.data.datasets.pascal_context import voc_first_permutation

    if folder.resolve() == _label_file(root, "").parent.resolve():
        raise ConfigError(f"{folder} is where the renumbered labels go; rename it first, and give the new name")
    splits = {split: read_list(_list_file(root, split)) for split in ("train", "val")}
    class_ids = np.array(voc_first_permutation(), np.uint8)
    names = chain(*splits.values())
    draws = {name: partial(_draw_renumbered, folder / f"{name}.png", class_ids) for name in names}
    return _write(root, splits, draws, workers, overwrite)


def _read_array(path: Path, array: str, **types: type) -> Iterator[tuple[Any, ...]]:
    """Streams an array of a JSON file: the values of each entry under the given keys, of the given types."""
    import ijson

    is_empty = True
    expected = ", ".join(f"{key} ({kind.__name__})" for key, kind in types.items())
    try:
        if path.exists() and not path.is_file():
            raise DataFileError(f"{path} is a folder, pipe or device; {_JSON}")
        with path.open("rb") as file:
            events = ijson.parse(_shallow(ijson.basic_parse(file)))
            for number, entry in enumerate(ijson.items(events, f"{array}.item")):
                is_empty = False
                values = tuple(entry.get(key) for key in types) if isinstance(entry, dict) else ()
                # True is an int to isinstance
                if [type(value) for value in values] != [*types.values()]:
                    shown = repr(values or entry)[:80]
                    raise DataFileError(f"{path}: entry {number} of {array} has {shown}, not {expected}; {_JSON}")
                yield values
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}; {_JSON}") from error
    except (ijson.JSONError, ValueError, ArithmeticError, RecursionError) as error:
        raise DataFileError(f"{path} is truncated or no JSON; {_JSON}, download it again") from error
    if is_empty:
        raise DataFileError(f"{path} has no {array}; {_JSON}")


def _shallow(events: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Passes on a parser's events; raises a ValueError on deep nesting, which would exhaust memory."""
    depth = 0
    for event, value in events:
        if event.endswith(("_map", "_array")):
            depth += 1 if event.startswith("start") else -1
            if depth > _MOST_NESTED:
                raise ValueError("nested too deeply")
        yield event, value


def _draw_masks(masks: Sequence[Mask], image: Path, size: tuple[int, int]) -> np.ndarray:
    """Draws masks in order, later ones over earlier ones."""
    from pycocotools import mask

    label = np.zeros(size, np.uint8)
    for annotation_id, class_id, run_lengths in masks:
        what = f"annotation {annotation_id}"
        _require_size(what, run_lengths.get("size"), image, size)
        counts = run_lengths.get("counts")
        # pycocotools writes as many pixels as the counts say, regardless of the size
        if not isinstance(counts, str) or not are_run_lengths(counts, size[0] * size[1]):
            raise DataFileError(
                f"{what} of {image.stem} cannot be decoded: its counts {counts!r:.40} do not run over "
                f"{size[0]}x{size[1]} pixels; {_JSON}"
            )
        label[mask.decode(run_lengths) == 1] = class_id
    return label


def are_run_lengths(counts: str, total: int) -> bool:
    """Whether a compressed RLE string of COCO holds non-negative run lengths that add up to `total`.

    >>> are_run_lengths("43", 7), are_run_lengths("43", 8)
    (True, False)

    Source:
        cocoapi, common/maskApi.c, rleFrString: groups of 5 bits, lowest first, with a bit for "more" and, in the last,
        a sign; from the fourth on the difference to the run length before the last.
    """
    codes = np.frombuffer(counts.encode("ascii", "ignore"), np.uint8).astype(np.int64) - 48
    is_last = codes & 32 == 0
    if not 0 < codes.size == len(counts) or codes.min() < 0 or codes.max() > 63 or not is_last[-1]:
        return False
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    places = np.arange(codes.size) - np.repeat(starts, np.diff([*starts, codes.size]))
    if places.max() > 6:  # 35 bits: more than any image has
        return False
    runs = np.add.reduceat((codes & 31) << (5 * places), starts)
    ends = np.flatnonzero(is_last)
    runs -= np.where(codes[ends] & 16, 1 << (5 * (places[ends] + 1)), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return bool(runs.min() >= 0 and runs.sum() == total)


def _read_label_names(path: Path) -> np.ndarray:
    """Reads the names of the 459 labels and returns the class id of each label, 0 where it is no class."""
    from hrseg.data.datasets.pascal_context import PASCAL_CONTEXT_60  # torch: not in the processes that draw

    names = PASCAL_CONTEXT_60.class_names[1:]
    expected = "expected lines such as `2: aeroplane`"
    try:
        lines = read_text(path).splitlines()
        labels = {name.strip(): int(label) for label, _, name in (line.partition(":") for line in lines) if name}
    except ConfigError as error:
        raise DataFileError(f"{error}; {expected}") from error
    except ValueError as error:
        raise DataFileError(f"{path} cannot be read: {error}; {expected}") from error
    if missing := [name for name in names if name not in labels]:
        raise DataFileError(
            f"{path} does not name {', '.join(missing)}; expected the 459 labels of the original release"
        )
    if strange := [name for name in names if not 0 <= labels[name] <= _GREATEST_LABEL]:
        raise DataFileError(
            f"{path} gives {strange[0]} the label {labels[strange[0]]}; expected 0 to {_GREATEST_LABEL}"
        )
    class_ids = np.zeros(_GREATEST_LABEL + 1, np.uint8)
    class_ids[[labels[name] for name in names]] = range(1, 60)
    return class_ids


def _draw_mat(path: Path, class_ids: np.ndarray, image: Path, size: tuple[int, int]) -> np.ndarray:
    from scipy.io import loadmat, whosmat

    content = io.BytesIO(read_file(path))
    try:
        found = {name: (shape, kind) for name, shape, kind in whosmat(content)}
        if "LabelMap" not in found:
            raise DataFileError(f"{path} holds no LabelMap; expected a label of the original release")
        shape, kind = found["LabelMap"]
        if kind not in _MATLAB_TYPES:
            raise DataFileError(f"{path}: LabelMap is of class {kind}; expected uint16, as in the original release")
        _require_size(str(path), shape, image, size)  # before it is allocated
        labels = loadmat(content, variable_names=["LabelMap"])["LabelMap"]
    except DataFileError:
        raise
    except Exception as error:  # truncated and corrupt files raise errors of no common class
        text = " ".join(str(error).split())
        raise DataFileError(f"{path} cannot be read: {text}; extract the original release again") from error
    # MATLAB's class does not tell whether there is an imaginary part
    if not (
        labels.dtype.kind in "uif"
        and labels.min() >= 0
        and labels.max() <= _GREATEST_LABEL
        and (labels == np.floor(labels)).all()
    ):
        raise DataFileError(f"{path}: LabelMap holds values beyond 0 to {_GREATEST_LABEL}; expected a label each")
    drawn: np.ndarray = class_ids[labels.astype(np.uint16)]
    return drawn


def _draw_renumbered(path: Path, class_ids: np.ndarray, image: Path, size: tuple[int, int]) -> np.ndarray:
    old = read_label(path)
    _require_size(str(path), old.shape, image, size)
    if (strange := np.setdiff1d(old, range(60))).size:
        raise DataFileError(f"{path} holds {strange[:5].tolist()}; expected class ids from 0 to 59")
    label: np.ndarray = class_ids[old]
    return label


def _require_size(what: str, found: Any, image: Path, size: tuple[int, int]) -> None:
    if not isinstance(found, (list, tuple)) or [*found] != [*size] or not all(type(n) is int for n in found):
        shown = "x".join(map(str, found)) if isinstance(found, (list, tuple)) else repr(found)
        raise DataFileError(
            f"{what} is {shown:.80} and its image {image} {size[0]}x{size[1]} (height x width); expected equal sizes"
        )


def _write(
    root: Path, splits: Mapping[str, Sequence[str]], draws: Mapping[str, Draw], workers: int | None, overwrite: bool
) -> dict[str, int]:
    """Writes all labels in parallel, then the lists."""
    if not (root / "JPEGImages").is_dir():
        raise DataNotFoundError(
            f"no folder {root / 'JPEGImages'}; give the folder VOC2010 of VOCtrainval_03-May-2010.tar"
        )
    missing = [name for name in draws if overwrite or not _label_file(root, name).is_file()]
    jobs = [(name, draws[name]) for name in missing]
    for _ in map_in_processes(partial(_write_label, root), jobs, "making labels", workers):
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
