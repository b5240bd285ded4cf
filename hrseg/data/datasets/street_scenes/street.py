"""The layout of a street, and the order in which its objects are drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from hrseg.data.datasets.street_scenes import furniture, people, surroundings, vehicles
from hrseg.data.datasets.street_scenes.canvas import Canvas, Dice, Face, Label
from hrseg.data.datasets.street_scenes.ground import Roadside, draw_ground, draw_sky

Draw: TypeAlias = Callable[[Canvas, Dice, float, float], None]

# how a border of the street is drawn, and the range of its height
_BORDERS: dict[Label, tuple[Callable[[Face, Dice], None], float, float]] = {
    Label.BUILDING: (surroundings.draw_house, 6.0, 15.0),
    Label.WALL: (surroundings.draw_wall, 2.2, 3.6),
    Label.FENCE: (surroundings.draw_fence, 1.8, 2.6),
    Label.VEGETATION: (surroundings.draw_hedge, 2.0, 4.0),
}
# drawn from uniformly: repeated entries are more likely
_BORDER_KINDS = (Label.BUILDING, Label.BUILDING, Label.WALL, Label.WALL, Label.FENCE, Label.FENCE, Label.VEGETATION)
_CORNER_KINDS = (Label.BUILDING, Label.BUILDING, Label.WALL, Label.FENCE, Label.VEGETATION)
_VEHICLES = (vehicles.car, vehicles.car, vehicles.bus, vehicles.bus, vehicles.truck, vehicles.train)
_CROSSING_VEHICLES = (vehicles.car, vehicles.bus, vehicles.truck, vehicles.train, vehicles.train)
# objects at the kerb, with their heights
_FURNITURE: tuple[tuple[Draw, float], ...] = (
    (furniture.draw_lamp, 6.0),
    (furniture.draw_traffic_light, 3.5),
    (furniture.draw_traffic_light, 3.5),
    (furniture.draw_traffic_sign, 3.0),
    (furniture.draw_traffic_sign, 3.0),
    (surroundings.draw_tree, 5.0),
)
# objects on the sidewalk, with half their widths and their heights
_PASSERS_BY: tuple[tuple[Draw, float, float], ...] = (
    *[(people.draw_person, 0.25, 1.8)] * 5,
    *[(partial(people.draw_bicycle, ridden=False), 0.9, 1.0)] * 2,
    *[(partial(people.draw_motorcycle, ridden=False), 0.9, 1.0)] * 2,
    (furniture.draw_box, 0.3, 1.1),
)
_END = 45.0  # metres; beyond are the houses and woods at the end of the street


class Street:
    """A straight street with a crossing and random objects.

    The objects are placed first, which casts their shadows, and drawn later from far to near.

    Args:
        canvas: What it is drawn on.
        dice: The random numbers.
    """

    def __init__(self, canvas: Canvas, dice: Dice) -> None:
        self._canvas = canvas
        self._dice = dice
        self._sides = [
            Roadside(
                sign=sign,
                kerb=dice.uniform(2.6, 3.5),
                verge=dice.choice((0.0, 0.0, dice.uniform(1.0, 1.5))),
                sidewalk=dice.uniform(1.8, 2.5),
                garden=dice.choice((0.0, dice.uniform(1.2, 2.0))),
            )
            for sign in (-1.0, 1.0)
        ]
        begin = dice.uniform(14.0, 20.0)
        self._crossing = begin, begin + dice.uniform(6.0, 10.0)
        self._rails: float | None = None
        self._objects: list[tuple[float, Callable[[], None]]] = []
        for side in self._sides:
            self._add_border(side)
            self._add_traffic(side)
            self._add_furniture(side)
            self._add_passers_by(side)
        self._add_crossing_traffic()
        self._add_riders()

    def draw(self) -> None:
        """Draws everything."""
        draw_sky(self._canvas, self._dice)
        draw_ground(self._canvas, self._dice, self._sides, self._crossing, self._rails)
        self._draw_end()
        for _, draw in sorted(self._objects, key=lambda item: -item[0]):
            draw()

    def _add_standing(self, draw: Draw, x: float, z: float, half: float, height: float) -> None:
        """Adds a flat object of width 2 * `half`, with its shadow."""
        self._objects.append((z, partial(draw, self._canvas, self._dice, x, z)))
        self._cast_shadow(x - half, x + half, z, z + 0.2, height)

    def _cast_shadow(self, left: float, right: float, near: float, far: float, height: float) -> None:
        """Casts the shadow of a box: its footprint and the shadows of two of its upright planes."""
        along, away = self._canvas.light.sun[0] * height, self._canvas.light.sun[1] * height
        middle, edge = (near + far) / 2, right if along > 0 else left
        cast = self._canvas.cast_shadow
        cast([(left, near), (right, near), (right, far), (left, far)])
        cast([(left, middle), (right, middle), (right + along, middle + away), (left + along, middle + away)])
        cast([(edge, near), (edge, far), (edge + along, far + away), (edge + along, near + away)])

    def _add_border(self, side: Roadside) -> None:
        """Houses, walls, fences and hedges on both sides of the crossing."""
        x, z = side.sign * side.edge, self._dice.uniform(2.0, 5.0)
        while z < _END:
            if self._crossing[0] - 2.0 < z < self._crossing[1]:
                z = self._crossing[1]
                self._add_corner(x, z, side.sign)
            far = z + self._dice.uniform(10.0, 16.0)
            if z < self._crossing[0]:
                far = min(far, self._crossing[0])
            label = self._dice.choice(_BORDER_KINDS)
            self._objects.append((far, partial(self._draw_border, label, x, z, far)))
            if label != Label.BUILDING:
                self._add_background(x, z, far, side.sign)
            z = far + self._dice.choice((0.0, 0.0, 0.6))

    def _draw_border(self, label: Label, x: float, near: float, far: float) -> None:
        draw, low, high = _BORDERS[label]
        draw(self._canvas.side(x, near, far, self._dice.uniform(low, high), label), self._dice)

    def _add_background(self, x: float, near: float, far: float, sign: float) -> None:
        """Trees and a house behind a wall, fence or hedge, drawn before it."""
        if self._dice.chance(0.7):
            for _ in range(2):
                place = x + sign * self._dice.uniform(2.5, 5.0), self._dice.uniform(near, far)
                self._objects.append((far + 0.1, partial(surroundings.draw_tree, self._canvas, self._dice, *place)))
        if self._dice.chance(0.3):
            self._objects.append((far + 0.2, partial(self._draw_border, Label.BUILDING, x + sign * 7.0, near, far)))

    def _add_corner(self, x: float, z: float, sign: float) -> None:
        """The border beyond the crossing that faces the camera."""
        label, length = self._dice.choice(_CORNER_KINDS), 22.0
        draw, low, high = _BORDERS[label]
        left = x if sign > 0 else x - length
        face = self._canvas.front(left, z, length, self._dice.uniform(low, high), label)
        self._objects.append((z, partial(draw, face, self._dice)))

    def _add_traffic(self, side: Roadside) -> None:
        """Vehicles in the lane of one side; those on the left are oncoming."""
        z = self._dice.uniform(7.5, 11.0)
        while z < self._crossing[0]:
            vehicle = self._dice.choice(_VEHICLES)(self._dice)
            half = vehicle.width / 2
            x = side.sign * self._dice.uniform(max(half + 0.2, 1.5), max(side.kerb - half - 0.1, 1.6))
            if vehicle.label == Label.TRAIN:
                self._rails = x
            draw = partial(vehicles.draw_along, self._canvas, vehicle, x, z, oncoming=side.sign < 0)
            self._objects.append((z, draw))
            self._cast_shadow(x - half, x + half, z, z + vehicle.length, vehicle.height)
            if vehicle.label != Label.CAR:
                return  # it hides what is behind it
            z += self._dice.uniform(7.0, 15.0)

    def _add_crossing_traffic(self) -> None:
        if self._dice.chance(0.6):
            z = self._crossing[0] + self._dice.uniform(1.0, 3.0)
            vehicle = self._dice.choice(_CROSSING_VEHICLES)(self._dice)
            x = self._dice.uniform(*((-vehicle.length - 4.0, 4.0) if vehicle.length < 15.0 else (-20.0, -6.0)))
            flipped = self._dice.chance(0.5)
            self._objects.append((z, partial(vehicles.draw_across, self._canvas, vehicle, x, z, flipped=flipped)))
            self._cast_shadow(x, x + vehicle.length, z, z + vehicle.width, vehicle.height)

    def _add_riders(self) -> None:
        """A cyclist and a motorcyclist, one on each side."""
        sign = self._dice.choice((-1.0, 1.0))
        for draw, lane in ((people.draw_bicycle, sign), (people.draw_motorcycle, -sign)):
            if self._dice.chance(0.65):
                x, z = lane * self._dice.uniform(1.0, 2.2), self._dice.uniform(5.0, 7.5)
                self._add_standing(partial(draw, ridden=True), x, z, 0.9, 1.7)

    def _add_furniture(self, side: Roadside) -> None:
        """Lamps, traffic lights, traffic signs and trees at the kerb."""
        z = self._dice.uniform(5.0, 7.0)
        while z < 12.5:
            draw, height = self._dice.choice(_FURNITURE)
            self._add_standing(draw, side.sign * (side.kerb + self._dice.uniform(0.3, 0.7)), z, 0.15, height)
            z += self._dice.uniform(3.5, 6.0)

    def _add_passers_by(self, side: Roadside) -> None:
        """Pedestrians, parked two-wheelers and boxes on the sidewalk."""
        z, (inner, outer) = self._dice.uniform(5.5, 7.5), side.walk
        while z < 12.0:
            draw, half, height = self._dice.choice(_PASSERS_BY)
            x = side.sign * self._dice.uniform(inner + 0.5, outer - 0.4)
            self._add_standing(draw, x, z, half, height)
            if draw is people.draw_person and self._dice.chance(0.5):  # a companion
                self._add_standing(draw, x + 0.8, z, half, height)
            z += self._dice.uniform(2.4, 4.0)

    def _draw_end(self) -> None:
        """Houses and woods at the end of the street."""
        x, z = -40.0, _END + 15.0
        while x < 40.0:
            length = self._dice.uniform(10.0, 25.0)
            is_house = self._dice.chance(0.6)
            label, heights = (Label.BUILDING, (7.0, 18.0)) if is_house else (Label.VEGETATION, (6.0, 14.0))
            face = self._canvas.front(x, z, length, self._dice.uniform(*heights), label)
            (surroundings.draw_house if is_house else surroundings.draw_hedge)(face, self._dice)
            x += length
