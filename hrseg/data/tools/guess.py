"""Guesses a classes file from the values in masks; removes JPEG noise from masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hrseg.data.classes import default_colors
from hrseg.data.labels import Color, pack_colors, unpack_color
from hrseg.errors import ConfigError, DataFileError, DataNotFoundError, LossyLabelError
from hrseg.utils.image_formats import open_image
from hrseg.utils.images import images_below, read_image, read_label, write_image
from hrseg.utils.parallel import map_in_processes

_SPLITS = ("train", "val", "test")
_MOST = 253  # classes that a label table may have
_MOST_VALUES = 100_000  # a photograph has more

# Measured on genuine masks. Share of pixels whose right and lower neighbours are equal: 0.5 and more for classes, 0.01
# for the noise of JPEG and smoothed edges. Share of the masks with a value in which it is one region: up to 0.46 for
# classes, 0.69 for instances.
_INSIDE_OF_NOISE = 0.1
_MOST_NOISE = 0.2  # of all pixels
_FEWEST_INSTANCES = 12
_SINGLE_REGIONS_OF_INSTANCES = 0.6


class _Value(NamedTuple):
    """Statistics of a label id or packed colour, in one mask or summed over masks."""

    pixels: int = 0
    inside: int = 0  # pixels whose right and lower neighbours are equal
    masks: int = 0
    single: int = 0  # masks in which it is one region

    def __add__(self, other: _Value) -> _Value:  # type: ignore[override]  # sums, unlike a tuple
        return _Value(*(one + another for one, another in zip(self, other, strict=True)))


class _Masks(NamedTuple):
    """The values in all masks."""

    files: dict[Path, Path]  # each with its path below the folder of the masks
    in_color: bool
    are_lossy: bool
    values: dict[int, _Value]

    @property
    def total(self) -> int:
        return sum(value.pixels for value in self.values.values())

    def text(self, value: int) -> str:
        """A label id or colour in the notation of a classes file."""
        return str(list(unpack_color(value)) if self.in_color else value)

    def share(self, values: Sequence[int]) -> str:
        return f"{100 * sum(self.values[value].pixels for value in values) / self.total:.3g} % of all pixels"

    def real(self) -> list[int]:
        """The values without noise, sorted.

        Raises:
            DataFileError: There are more than a label table may have.
        """
        values = sorted(self.values, key=unpack_color) if self.in_color else sorted(self.values)
        areas = [v for v in values if self.values[v].inside >= _INSIDE_OF_NOISE * self.values[v].pixels]
        noise = len(values) - len(areas)
        pixels = self.total - sum(self.values[value].pixels for value in areas)
        is_noisy = len(areas) > 0 and noise > max(2, len(areas)) and pixels <= _MOST_NOISE * self.total
        real = areas if is_noisy else values
        if len(real) > _MOST + 1:
            raise _too_many([*self.files][-1], len(real))
        return real

    def look_like_instances(self) -> bool:
        occurrences = sum(value.masks for value in self.values.values())
        single = sum(value.single for value in self.values.values())
        return len(self.values) >= _FEWEST_INSTANCES and single >= _SINGLE_REGIONS_OF_INSTANCES * occurrences


def mask_folders(root: Path, masks: str = "masks") -> dict[str, Path]:
    """The folder of the masks in a root, or if there is none, those in its folders train, val and test.

    Returns:
        The folders by split: "train", "val" and "test", or "" for a single one.
    """
    splits = {split: root / split / masks for split in _SPLITS if (root / split / masks).is_dir()}
    return splits if splits and not (root / masks).is_dir() else {"": root / masks}


def guess_classes(folder: Path | Mapping[str, Path], suffix: str = "") -> str:
    """Writes a classes file with a class for each label id or colour in masks.

    255 is void if it is far from two or more other ids: its distance to the next is more than four times the widest gap
    between them. In masks of 0 and 255, or 0, 128 and 255, it is a class. The colours are those of the first mask's
    palette, if it has one.

    Args:
        folder: The folder of the masks, searched recursively, or several as returned by `mask_folders`.
        suffix: Ending of the mask names, such as "_mask".

    Returns:
        YAML for `hrseg.data.classes.read_classes`, with comments on the frequency of each class, on 255, and on values
        that look like instances.

    Raises:
        DataNotFoundError: There is no mask.
        DataFileError: A mask cannot be read, some hold ids and others colours, there are too many values, or most of
            them are noise.
    """
    masks = _read_all(folder, suffix)
    where = str(folder) if isinstance(folder, Path) else ", ".join(map(str, folder.values()))
    real = masks.real()
    if masks.are_lossy or len(real) < len(masks.values):
        noise = [value for value in masks.values if value not in real]
        kept = ", ".join(map(masks.text, real[:20]))
        of_noise = f"of {len(masks.values)} values {len(noise)} are noise ({masks.share(noise)}), as JPEG or smoothing"
        found = f"{of_noise} leaves it; the others are {kept}" if noise else f"the values are {kept}, without noise"
        kind = "files in a format that changes labels, such as JPEG" if masks.are_lossy else "noisy masks"
        raise DataFileError(
            f"{where} holds {kind}: {found}. Add --snap FOLDER: it writes the masks as PNG there"
            + ", with each pixel at the nearest of these" * bool(noise)
        )
    what = f"# {len(masks.files)} masks of {where}; put the classes' real names in.\n"
    if masks.look_like_instances():
        what += (
            f"# {len(real)} values, most of them a single region in each mask: do they number instances or segments "
            "(COCO panoptic)?\n# Then they are no classes: expected masks with one value per class.\n"
        )
    if masks.in_color:
        return what + _yaml(masks, {code: unpack_color(code) for code in real})
    ids, about_255 = _without_void(masks, real)
    palette = _palette(next(iter(masks.files)))
    own = [palette[value] for value in ids if value < len(palette)]
    colors = dict(zip(ids, own if len({*own}) == len(ids) else default_colors(len(ids)), strict=True))
    return what + about_255 + _yaml(masks, colors)


def snap_masks(folder: Path | Mapping[str, Path], suffix: str, output: Path) -> list[str]:
    """Writes masks as PNG, with each pixel set to the nearest value that is not noise.

    Args:
        folder: As for `guess_classes`; masks may be JPEGs.
        suffix: Ending of the mask names, such as "_mask".
        output: New folder for masks of the same names; those of several folders go to its folders train, val and test.

    Returns:
        The label ids or colours, as text.

    Raises:
        ConfigError: `output` contains files, or is the folder of the masks.
        DataNotFoundError: There is no mask.
        DataFileError: A mask cannot be read, or there are too many values.
    """
    folders = [folder] if isinstance(folder, Path) else folder.values()
    if output.resolve() in [path.resolve() for path in folders] or (output.is_dir() and any(output.iterdir())):
        raise ConfigError(f"--snap {output} is there already; give a new folder")
    masks = _read_all(folder, suffix)
    real = masks.real()
    jobs = [(path, (output / name).with_suffix(".png")) for path, name in masks.files.items()]
    for _ in map_in_processes(partial(_snap, values=real, in_color=masks.in_color), jobs, "writing masks"):
        pass
    return [masks.text(value) for value in real]


def _read_all(folder: Path | Mapping[str, Path], suffix: str) -> _Masks:
    folders = {"": folder} if isinstance(folder, Path) else folder
    files = {
        path: Path(split, path.relative_to(home))
        for split, home in folders.items()
        for path in images_below(home, suffix).values()
    }
    paths = list(files)
    if not paths:
        place = next(iter(folders.values())).absolute()
        raise DataNotFoundError(
            f"no mask *{suffix}.png in {place}, {_what_is_there(place)}; give --masks the name of the folder below the "
            "root and --mask_suffix what the names end with. Polygons have to be drawn as PNG first"
        )
    kinds = ("label ids", "colours")
    values: dict[int, _Value] = {}
    are_lossy = all_in_color = False
    for path, (in_color, is_lossy, found) in zip(paths, map_in_processes(_values, paths, "reading masks"), strict=True):
        if path is paths[0]:
            all_in_color = in_color
        if in_color != all_in_color:
            raise DataFileError(
                f"{paths[0]} holds {kinds[all_in_color]} and {path} {kinds[in_color]}; expected one kind"
            )
        are_lossy |= is_lossy
        for value, counts in found.items():
            values[value] = values.get(value, _Value()) + counts
        if len(values) > _MOST_VALUES:
            raise _too_many(path, len(values))
    return _Masks(files, all_in_color, are_lossy, values)


def _what_is_there(folder: Path) -> str:
    """Lists the content of a folder, or of the nearest existing parent of a missing one."""
    place = next(place for place in (folder, *folder.parents) if place.is_dir())
    names = [f"{path.name}/" if path.is_dir() else path.name for path in sorted(place.iterdir())]
    listed = f"{', '.join(names[:5]) or 'nothing'}{', ...' if len(names) > 5 else ''}"
    return f"which holds {listed}" if place == folder else f"which is missing; {place} holds {listed}"


def _too_many(path: Path, number: int) -> DataFileError:
    return DataFileError(
        f"masks up to {path} hold {number} different values; expected {_MOST} classes or fewer. "
        "Are they photographs, or saved with smoothed edges?"
    )


def _without_void(masks: _Masks, ids: list[int]) -> tuple[list[int], str]:
    """The ids that are classes, and the comment on 255."""
    others = [value for value in ids if value != 255]
    if others == ids or not others:
        return ids, ""
    share = f"{masks.share([255])}, in {masks.values[255].masks} masks"
    listed = f"{', '.join(map(str, others[:5]))}{', ...' if len(others) > 5 else ''}"
    widest_gap = max(np.diff([0, *others]).tolist(), default=0)
    if len(others) > 1 and 255 - others[-1] > 4 * widest_gap:
        return others, (
            f"# 255 is ignored: {share}; it is far from the other ids ({listed}). If it is a class, add it to names, "
            "colors and ids.\n"
        )
    binary = len(others) == 1
    reason = f"the only other id is {others[0]}" if binary else f"it is not far from the other ids ({listed})"
    return ids, f"# 255 is a class: {share}; {reason}. If it is void, remove it from names, colors and ids.\n"


def _yaml(masks: _Masks, colors: dict[int, Color]) -> str:
    kind = "colour" if masks.in_color else "label id"
    lines = ["names:"]
    for number, value in enumerate(colors):
        found = f"{masks.share([value])}, in {masks.values[value].masks} masks"
        lines.append(f"  - class_{number}  # {kind} {masks.text(value)}: {found}")
    lines.append("colors:")
    lines += [f"  - {list(color)}  # class_{number}" for number, color in enumerate(colors.values())]
    if not masks.in_color:
        lines.append(f"ids: {[*colors]}")
    lines += [
        f"ignore: []  # {kind}s that are no class: move them here, and remove their names and colours above",
        "flip_pairs: []  # such as [left arm, right arm], which are swapped in mirrored images",
    ]
    return "\n".join(lines) + "\n"


def _values(path: Path) -> tuple[bool, bool, dict[int, _Value]]:
    """Whether a mask is in colour, whether its format is lossy, and its label ids or packed colours."""
    mask, is_lossy = _read(path)
    values, indices, counts = np.unique(mask, return_inverse=True, return_counts=True)
    indices = indices.reshape(mask.shape)
    here = indices[:-1, :-1]
    is_inside = (here == indices[1:, :-1]) & (here == indices[:-1, 1:])
    inside = np.bincount(here[is_inside], minlength=len(values))
    found = {}
    for number, (value, pixels) in enumerate(zip(values.tolist(), counts.tolist(), strict=True)):
        is_area = len(values) <= _MOST + 1 and inside[number] >= _INSIDE_OF_NOISE * pixels
        is_single = is_area and cv2.connectedComponents((indices == number).astype(np.uint8))[0] == 2
        found[value] = _Value(pixels, int(inside[number]), 1, int(is_single))
    return mask.dtype == np.uint32, is_lossy, found


def _read(path: Path) -> tuple[np.ndarray, bool]:
    """Label ids, or packed colours as uint32, (H, W); and whether the file's format is lossy."""
    try:
        mask, is_lossy = read_label(path, in_color=True), False
    except LossyLabelError:
        mask, is_lossy = read_image(path), True
        if np.ptp(mask, axis=2).max() < 32:  # grey
            mask = np.ascontiguousarray(mask[..., 1])
    return (mask if mask.ndim == 2 else pack_colors(mask)), is_lossy


def _snap(job: tuple[Path, Path], values: Sequence[int], in_color: bool) -> None:
    path, target = job
    mask, _ = _read(path)
    found, indices = np.unique(mask, return_inverse=True)
    channels = 3 if in_color else 1

    def unpacked(codes: Sequence[int]) -> np.ndarray:
        return np.array([unpack_color(code)[:channels] for code in codes])

    known = unpacked(values)
    nearest = [int(np.square(known - value).sum(1).argmin()) for value in unpacked(found.tolist())]
    snapped = known.astype(np.uint8)[np.array(nearest)[indices.ravel()]].reshape(*mask.shape, channels)
    write_image(target, snapped if in_color else snapped[..., 0])


def _palette(path: Path) -> list[Color]:
    with path.open("rb") as file, open_image(file, path, as_label=True) as image:
        values = (image.getpalette() or []) if image.mode == "P" else []
    return [(red, green, blue) for red, green, blue in zip(values[::3], values[1::3], values[2::3], strict=True)]
