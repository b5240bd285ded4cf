"""A whole street scene: what stands where, drawn from the far end to the near one, and photographed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from hrseg.data.street_scenes import furniture, people, surroundings, vehicles
from hrseg.data.street_scenes.canvas import Camera, Canvas, Dice, Face, Label, Light
from hrseg.data.street_scenes.ground import Roadside, draw_ground, draw_sky

SPLITS = ("train", "val", "test")
_OVERSAMPLING = 2  # the scene is drawn this many times larger, and averaged for smooth edges
_EDGES: dict[Label, tuple[Callable[[Face, Dice], None], float, float]] = {  # how to draw it, its range of heights
    Label.BUILDING: (surroundings.draw_house, 6.0, 15.0),
    Label.WALL: (surroundings.draw_wall, 2.2, 3.6),
    Label.FENCE: (surroundings.draw_fence, 1.8, 2.6),
    Label.VEGETATION: (surroundings.draw_hedge, 2.0, 4.0),
}


@dataclass(frozen=True)
class Scene:
    """A picture of a street and its labels.

    Args:
        image: (H, W, 3) uint8, RGB.
        label_ids: (H, W) uint8, Cityscapes label ids.
        instance_ids: (H, W) uint16, label id, or label id * 1000 + number where instances are told apart.
    """

    image: NDArray[np.uint8]
    label_ids: NDArray[np.uint8]
    instance_ids: NDArray[np.uint16]


def generate_scene(seed: int, split: str, index: int, size: tuple[int, int] = (128, 256)) -> Scene:
    """Draws a scene.

    Args:
        seed: Scenes of different seeds have nothing in common.
        split: train, val or test.
        index: Number of the scene in its split.
        size: (height, width) in pixels.

    Returns:
        The scene, the same on every machine for the same arguments.
    """
    key = seed, SPLITS.index(split), index
    dice = Dice(*key, 0)
    return _Street(dice, Dice(*key, 1), (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING)).photograph()


class _Street:
    """A street that is being furnished.

    Things are collected first and drawn later: the far ones first, and all their shadows before any of them.
    """

    def __init__(self, dice: Dice, texture_dice: Dice, size: tuple[int, int]) -> None:
        height, width = size
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
        self.dice = dice
        self.canvas = Canvas(size, camera, light, texture_dice)
        self.sides = [
            Roadside(
                sign=sign,
                kerb=dice.uniform(2.8, 4.0),
                verge=dice.choice((0.0, 0.0, dice.uniform(1.2, 1.8))),
                sidewalk=dice.uniform(2.0, 2.8),
                garden=dice.choice((0.0, dice.uniform(1.2, 2.0))),
            )
            for sign in (-1.0, 1.0)
        ]
        begin = dice.uniform(15.0, 22.0)
        self.crossing = begin, begin + dice.uniform(6.0, 10.0)
        self.rails: float | None = None
        self._things: list[tuple[float, Callable[[], None]]] = []

        for side in self.sides:
            self._edge(side)
            self._traffic(side)
            self._kerb(side)
            self._sidewalk(side)
        self._cross_traffic()
        self._riders()

    def _add(self, z: float, draw: Callable[..., None], *args: object, **kwargs: object) -> None:
        self._things.append((z, partial(draw, *args, **kwargs)))

    def _shadow(self, left: float, right: float, near: float, far: float, height: float) -> None:
        """The shadow of an upright thing: that of a thin thing is a strip, that of a block is its foot and two strips."""
        along, away = self.canvas.light.sun[0] * height, self.canvas.light.sun[1] * height
        middle = (near + far) / 2
        self.canvas.cast([(left, near), (right, near), (right, far), (left, far)])
        self.canvas.cast(
            [(left, middle), (right, middle), (right + along, middle + away), (left + along, middle + away)]
        )
        if far - near > 1.0:
            side = right if along > 0 else left
            self.canvas.cast([(side, near), (side, far), (side + along, far + away), (side + along, near + away)])

    def _edge(self, side: Roadside) -> None:
        """Houses, walls, fences and hedges on both sides of the crossing, and trees and houses behind them."""
        dice, canvas, x = self.dice, self.canvas, side.sign * side.edge
        z = dice.uniform(2.0, 5.0)
        while z < 60.0:
            if self.crossing[0] - 2 < z < self.crossing[1]:
                z = self.crossing[1]
                self._corner(x, z, side.sign)
            far = z + dice.uniform(10.0, 16.0)
            if z < self.crossing[0]:
                far = min(far, self.crossing[0])
            label = dice.choice(
                (Label.BUILDING, Label.BUILDING, Label.WALL, Label.FENCE, Label.WALL, Label.FENCE, Label.VEGETATION)
            )
            if label != Label.BUILDING:
                if dice.chance(0.7):
                    for _ in range(2):
                        behind = dice.uniform(z, far)
                        self._add(
                            far + 0.02,
                            surroundings.draw_tree,
                            canvas,
                            dice,
                            x + side.sign * dice.uniform(2.5, 5.0),
                            behind,
                        )
                if dice.chance(0.3):
                    self._add(far + 0.05, self._draw_edge, Label.BUILDING, x + side.sign * 7.0, z, far)
            self._add(far, self._draw_edge, label, x, z, far)
            z = far + (0.6 if dice.chance(0.3) else 0.0)

    def _draw_edge(self, label: Label, x: float, near: float, far: float) -> None:
        draw, low, high = _EDGES[label]
        draw(self.canvas.side(x, near, far, self.dice.uniform(low, high), label), self.dice)

    def _corner(self, x: float, z: float, sign: float) -> None:
        """What looks at the camera from beyond the crossing."""
        dice, length = self.dice, 22.0
        label = dice.choice((Label.BUILDING, Label.BUILDING, Label.WALL, Label.FENCE, Label.VEGETATION))
        draw, low, high = _EDGES[label]
        face = self.canvas.front(x if sign > 0 else x - length, z, length, dice.uniform(low, high), label)
        self._add(z - 0.1, draw, face, dice)

    def _traffic(self, side: Roadside) -> None:
        """The lane on one side of the road."""
        dice = self.dice
        z = dice.uniform(8.0, 12.0)
        while z < self.crossing[0]:
            build = dice.choice(
                (vehicles.car, vehicles.car, vehicles.bus, vehicles.bus, vehicles.truck, vehicles.train)
            )
            vehicle = build(dice)
            half = vehicle.width / 2
            x = side.sign * dice.uniform(max(half + 0.2, 1.5), max(side.kerb - half - 0.1, 1.6))
            if vehicle.label == Label.TRAIN:
                self.rails = x
            self._add(z, vehicles.draw_along, self.canvas, vehicle, x, z, oncoming=side.sign < 0)
            self._shadow(x - half, x + half, z, z + vehicle.length, vehicle.height)
            z += 7.0 if vehicle.label == Label.CAR else 40.0
            z += dice.uniform(0.0, 8.0)

    def _cross_traffic(self) -> None:
        dice = self.dice
        if dice.chance(0.6):
            z = self.crossing[0] + dice.uniform(1.0, 3.0)
            vehicle = dice.choice((vehicles.car, vehicles.bus, vehicles.truck, vehicles.train, vehicles.train))(dice)
            x = dice.uniform(-20.0, -6.0) if vehicle.label == Label.TRAIN else dice.uniform(-14.0, 4.0)
            self._add(z, vehicles.draw_across, self.canvas, vehicle, x, z, flipped=dice.chance(0.5))
            self._shadow(x, x + vehicle.length, z, z + vehicle.width, vehicle.height)

    def _riders(self) -> None:
        dice = self.dice
        lane = dice.choice((-1.0, 1.0))
        for draw, sign in ((people.draw_bicycle, lane), (people.draw_motorcycle, -lane)):
            if dice.chance(0.65):
                x, z = sign * dice.uniform(1.0, 2.8), dice.uniform(5.5, 8.5)
                self._two_wheeler(draw, x - 0.9, z, ridden=True)

    def _two_wheeler(self, draw: Callable[..., None], x: float, z: float, *, ridden: bool) -> None:
        self._add(z, draw, self.canvas, self.dice, x, z, ridden=ridden)
        self._shadow(x, x + 1.8, z, z + 0.3, 1.7 if ridden else 1.0)

    def _kerb(self, side: Roadside) -> None:
        """Lamps, lights, signs and trees."""
        dice = self.dice
        z = dice.uniform(5.5, 7.5)
        while z < 14.0:
            draw, height = dice.choice(
                (
                    (furniture.draw_lamp, 6.0),
                    (furniture.draw_traffic_light, 3.5),
                    (furniture.draw_traffic_light, 3.5),
                    (furniture.draw_traffic_sign, 3.0),
                    (furniture.draw_traffic_sign, 3.0),
                    (surroundings.draw_tree, 5.0),
                )
            )
            x = side.sign * (side.kerb + dice.uniform(0.3, 0.7))
            self._add(z, draw, self.canvas, dice, x, z)
            self._shadow(x - 0.12, x + 0.12, z, z + 0.1, height)
            z += dice.uniform(3.5, 6.0)

    def _sidewalk(self, side: Roadside) -> None:
        """Persons, parked two-wheelers, boxes."""
        dice, (inner, outer) = self.dice, side.walk
        z = dice.uniform(6.0, 8.0)
        while z < 13.5:
            x = side.sign * dice.uniform(inner + 0.6, outer - 0.4)
            roll = dice.integer(0, 9)
            if roll < 5:
                for number in range(dice.integer(1, 2)):
                    self._add(z, people.draw_person, self.canvas, dice, x + 0.8 * number, z)
                    self._shadow(x + 0.8 * number - 0.25, x + 0.8 * number + 0.25, z, z + 0.2, 1.7)
            elif roll < 9:
                draw = people.draw_bicycle if roll < 7 else people.draw_motorcycle
                self._two_wheeler(draw, x - 0.9, z, ridden=False)
            else:
                self._add(z, furniture.draw_box, self.canvas, dice, x, z)
                self._shadow(x - 0.3, x + 0.3, z, z + 0.3, 1.0)
            z += dice.uniform(2.6, 4.4)

    def _draw_backdrop(self) -> None:
        """Houses and woods where the street ends."""
        x, dice = -40.0, self.dice
        while x < 40.0:
            length = dice.uniform(10.0, 25.0)
            if dice.chance(0.6):
                surroundings.draw_house(
                    self.canvas.front(x, 75.0, length, dice.uniform(7.0, 18.0), Label.BUILDING), dice
                )
            else:
                surroundings.draw_hedge(
                    self.canvas.front(x, 74.0, length, dice.uniform(6.0, 14.0), Label.VEGETATION), dice
                )
            x += length

    def _draw_bonnet(self) -> None:
        """The bonnet of the car that carries the camera."""
        height, width = self.canvas.size
        paint = np.array(
            self.dice.vary(self.dice.choice(((40, 42, 46), (120, 122, 126), (60, 30, 30), (50, 60, 80))), 15),
            np.float32,
        )
        top = int(height * self.dice.uniform(0.9, 0.97))
        row = np.arange(top, height, dtype=np.float32)[:, None]
        column = np.arange(width, dtype=np.float32)[None] - np.float32(width / 2)
        depth = row - np.float32(top) - column * column * np.float32(0.25 * height / (width * width))
        shine = 1 - depth[..., None] * np.float32(4.0 / height)
        np.copyto(self.canvas.colors[top:], (paint * shine).astype(np.uint8), where=depth[..., None] >= 0)
        np.copyto(self.canvas.ids[top:], np.uint16(Label.EGO_VEHICLE), where=depth >= 0)

    def photograph(self) -> Scene:
        """Draws everything and develops the picture."""
        dice, canvas = self.dice, self.canvas
        draw_sky(canvas, dice)
        draw_ground(canvas, dice, self.sides, self.crossing, self.rails)
        self._draw_backdrop()
        for _, draw in sorted(self._things, key=lambda thing: -thing[0]):
            draw()
        if dice.chance(0.65):
            self._draw_bonnet()
        ids = np.ascontiguousarray(canvas.ids[1::_OVERSAMPLING, 1::_OVERSAMPLING])
        label_ids = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
        return Scene(_develop(canvas, dice), label_ids, ids)


def _develop(canvas: Canvas, dice: Dice) -> NDArray[np.uint8]:
    """Averages to the final size; then exposure, colour temperature, blur and the sensor's noise."""
    step = _OVERSAMPLING
    tall = canvas.colors.astype(np.uint16)
    parts = [tall[row::step, column::step] for row in range(step) for column in range(step)]
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
