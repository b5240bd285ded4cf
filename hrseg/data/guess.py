"""A first classes file for masks that nobody has described."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from hrseg.data.classes import default_colors
from hrseg.data.labels import Color, pack_colors, unpack_color
from hrseg.data.parallel import map_in_processes
from hrseg.errors import DataFileError, DataNotFoundError
from hrseg.image_formats import open_image
from hrseg.images import images_below, read_label

_MOST = 253  # classes that a label table may have


def guess_classes(folder: Path, suffix: str = "") -> str:
    """Looks at all masks of a folder, and takes each label id or colour that occurs for a class.

    Colours are those of the first mask's palette, if it has one.

    Args:
        folder: The masks, in sub-folders too.
        suffix: What the names of the masks end with, such as "_mask".

    Returns:
        YAML for `hrseg.data.classes.read_classes`, with a comment at each class that says how often it occurs.

    Raises:
        DataNotFoundError: There is no mask.
        DataFileError: A mask cannot be read, some hold ids and some colours, or there are too many values.
    """
    paths = list(images_below(folder, suffix).values())
    if not paths:
        raise DataNotFoundError(
            f"no mask *{suffix}.png in {folder.absolute()}; give --masks the name of the folder below the root"
        )
    pixels: Counter[int] = Counter()
    masks: Counter[int] = Counter()
    for path, (in_color, counts) in zip(paths, map_in_processes(_values, paths, "reading masks"), strict=True):
        if path is paths[0]:
            all_in_color = in_color
        if in_color != all_in_color:
            kinds = ("label ids", "colours")
            raise DataFileError(
                f"{paths[0]} holds {kinds[all_in_color]} and {path} {kinds[in_color]}; expected one kind"
            )
        pixels.update(counts)
        masks.update(counts.keys())
        if len(pixels) > _MOST + 1:
            raise DataFileError(
                f"masks up to {path} hold {len(pixels)} different values; expected {_MOST} classes or fewer. "
                "Are they photographs, or saved with smoothed edges?"
            )
    total = pixels.total()
    found = {value: f"{100 * pixels[value] / total:.3g} % of all pixels, in {masks[value]} masks" for value in pixels}
    what = f"# {len(paths)} masks of {folder}; put the classes' real names in.\n"
    if all_in_color:
        colors = {code: unpack_color(code) for code in sorted(found, key=unpack_color)}
        ids: list[int] = []
    else:
        ids = sorted(found)
        if 255 in ids and len(ids) > 2:  # with two values 255 is the foreground
            ids.remove(255)
            what += f"# 255 is ignored: {found[255]}\n"
        palette = _palette(paths[0])
        own = [palette[value] for value in ids if value < len(palette)]
        colors = dict(zip(ids, own if len({*own}) == len(ids) else default_colors(len(ids)), strict=True))
    return what + _yaml(colors, ids, found)


def _yaml(colors: dict[int, Color], ids: list[int], found: dict[int, str]) -> str:
    kind = "label id" if ids else "colour"
    lines = ["names:"]
    for number, (value, color) in enumerate(colors.items()):
        lines.append(f"  - class_{number}  # {kind} {value if ids else list(color)}: {found[value]}")
    lines.append("colors:")
    lines += [f"  - {list(color)}  # class_{number}" for number, color in enumerate(colors.values())]
    if ids:
        lines.append(f"ids: {ids}")
    lines += [
        f"ignore: []  # {kind}s that are no class: take them out above, with name and colour, and put them here",
        "flip_pairs: []  # such as [left arm, right arm], which change places when an image is mirrored",
    ]
    return "\n".join(lines) + "\n"


def _values(path: Path) -> tuple[bool, dict[int, int]]:
    """Whether a mask is in colour, and how many pixels each value or packed colour has."""
    mask = read_label(path, in_color=True)
    if mask.ndim == 2:
        counts = np.bincount(mask.ravel())
        return False, {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    codes, numbers = np.unique(pack_colors(mask), return_counts=True)
    return True, dict(zip(codes.tolist(), numbers.tolist(), strict=True))


def _palette(path: Path) -> list[Color]:
    with path.open("rb") as file, open_image(file, path, as_label=True) as image:
        values = (image.getpalette() or []) if image.mode == "P" else []
    return [(red, green, blue) for red, green, blue in zip(values[::3], values[1::3], values[2::3], strict=True)]
