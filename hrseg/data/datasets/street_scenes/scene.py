"""A whole scene: a street as seen by a camera in a car."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hrseg.data.datasets.street_scenes.canvas import Camera, Canvas, Color, Dice, Label, Light
from hrseg.data.datasets.street_scenes.street import Street
from hrseg.errors import UnknownNameError

SPLITS = ("train", "val", "test")
_OVERSAMPLING = 2  # scenes are rendered this many times larger and averaged, against aliasing
_BONNETS: tuple[Color, ...] = ((40, 42, 46), (120, 122, 126), (60, 30, 30), (50, 60, 80))


@dataclass(frozen=True)
class Scene:
    """An image of a street and its labels.

    Args:
        image: (H, W, 3) uint8, RGB.
        label_ids: (H, W) uint8, Cityscapes label ids.
        instance_ids: (H, W) uint16, the label id, or label id * 1000 + number for classes with instances.
    """

    image: NDArray[np.uint8]
    label_ids: NDArray[np.uint8]
    instance_ids: NDArray[np.uint16]


def generate_scene(seed: int, split: str, index: int, size: tuple[int, int] = (128, 256)) -> Scene:
    """Draws a scene.

    Args:
        seed: 0 or more; each seed gives independent scenes.
        split: train, val or test.
        index: Index of the scene in its split, 0 or more.
        size: (height, width) in pixels: the resolution at which the same scene is rendered.

    Returns:
        The scene, bit-identical on every machine.

    Raises:
        UnknownNameError: There is no such split.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    key = seed, SPLITS.index(split), index
    dice = Dice(*key, 0)
    height, width = size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING
    camera = Camera(
        focal=width * dice.uniform(0.7, 0.84),
        column=width * dice.uniform(0.38, 0.62),
        row=height * dice.uniform(0.36, 0.5),
        height=dice.uniform(1.4, 2.3),
    )
    light = Light(
        sun=(dice.choice((-1.0, 1.0)) * dice.uniform(0.3, 1.3), dice.uniform(-0.3, 0.6)),
        shadow=dice.choice((0.92, dice.uniform(0.5, 0.8), dice.uniform(0.5, 0.8))),
        shade=dice.uniform(0.6, 0.9),
        haze=dice.vary((196, 202, 208), 20),
        visibility=dice.uniform(120.0, 400.0),
    )
    canvas = Canvas((height, width), camera, light, Dice(*key, 1))  # separate, as the textures depend on the size
    Street(canvas, dice).draw()
    if dice.chance(0.65):
        _draw_bonnet(canvas, dice)
    instance_ids = np.ascontiguousarray(canvas.ids[1::_OVERSAMPLING, 1::_OVERSAMPLING])
    label_ids = np.where(instance_ids >= 1000, instance_ids // 1000, instance_ids).astype(np.uint8)
    return Scene(_develop(canvas, dice), label_ids, instance_ids)


def _draw_bonnet(canvas: Canvas, dice: Dice) -> None:
    """The bonnet of the camera car."""
    height, width = canvas.size
    paint = np.array(dice.color(_BONNETS, 15), np.float32)
    top = int(height * dice.uniform(0.9, 0.97))
    row = np.arange(height - top, dtype=np.float32)[:, None]
    column = np.arange(width, dtype=np.float32) - np.float32(width / 2)
    depth = row - column * column * np.float32(0.25 * height / (width * width))
    shine = 1 - depth[..., None] * np.float32(4 / height)
    np.copyto(canvas.colors[top:], (paint * shine).astype(np.uint8), where=depth[..., None] >= 0)
    np.copyto(canvas.ids[top:], np.uint16(Label.EGO_VEHICLE), where=depth >= 0)


def _develop(canvas: Canvas, dice: Dice) -> NDArray[np.uint8]:
    """Averages to the final size; applies exposure, colour temperature, blur and sensor noise."""
    step = _OVERSAMPLING
    large = canvas.colors.astype(np.uint16)
    parts = [large[row::step, column::step] for row in range(step) for column in range(step)]
    average = (sum(parts[1:], parts[0]) // (step * step)).astype(np.uint8)
    warmth, exposure = dice.integer(-16, 16), dice.integer(205, 300)
    tone = np.arange(256)[:, None] * np.array([exposure + warmth, exposure, exposure - warmth]) // 256
    tone = np.minimum(tone, 200 + (tone - 200) // 2)  # highlights roll off
    image = cv2.LUT(average, np.minimum(tone, 255).astype(np.uint8)[None]).astype(np.int16)
    if dice.chance(0.4):
        image[:, 1:-1] = (image[:, :-2] + 2 * image[:, 1:-1] + image[:, 2:]) // 4
    noise = np.stack([canvas.grain[row::step, column::step] for row, column in ((0, 0), (1, 0), (0, 1))], axis=-1)
    image += (noise.astype(np.int16) - 128) * dice.integer(2, 7) // 128
    return np.clip(image, 0, 255).astype(np.uint8)
