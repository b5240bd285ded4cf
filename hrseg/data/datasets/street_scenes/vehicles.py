"""Cars, trucks, buses and trains: a side view, extruded to the vehicle's width, and a front or rear view.

`car`, `bus`, `truck` and `train` each return a random vehicle; `draw_along` and `draw_across` draw it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hrseg.data.datasets.street_scenes.canvas import Canvas, Color, Dice, Face, Flat, Label, Point, darker

_PAINTS: tuple[Color, ...] = (
    (205, 205, 205), (150, 155, 160), (45, 47, 50), (25, 40, 85), (130, 25, 30), (70, 95, 125), (225, 190, 60),
    (60, 95, 65), (190, 90, 35), (215, 215, 205), (95, 75, 60), (60, 130, 160),
)  # fmt: skip
_TYRE: Color = (24, 24, 26)
_METAL: Color = (120, 122, 125)
_DARK: Color = (30, 30, 32)
_GLASS: Color = (52, 62, 74)
_PLATE: Color = (225, 225, 215)
_TAIL_LIGHT: Color = (190, 25, 25)
_HEADLIGHT: Color = (250, 245, 220)
_DISPLAY: Color = (245, 180, 50)


@dataclass(frozen=True)
class Vehicle:
    """A vehicle, lengths in metres.

    Args:
        label: Its class.
        width: From left to right.
        length: From the front to the rear bumper.
        height: Of its highest point.
        outline: The upper outline of the side view as points (u, v), from the front bumper at u = 0 to the rear bumper.
        paint: Colour of the extruded outline: roof, bonnet, the front of a box body.
        side: Draws the side view, with the front at u = 0.
        end: Draws the front view (True) or the rear view.
    """

    label: Label
    width: float
    length: float
    height: float
    outline: Sequence[Flat]
    paint: Color
    side: Callable[[Face], None]
    end: Callable[[Face, bool], None]


def draw_along(canvas: Canvas, vehicle: Vehicle, x: float, z: float, *, oncoming: bool) -> None:
    """Draws a vehicle that points along the street, centred at x, with its near end at z."""
    ident, left, right = canvas.instance(vehicle.label), x - vehicle.width / 2, x + vehicle.width / 2
    outline = vehicle.outline if oncoming else [(vehicle.length - u, v) for u, v in reversed(vehicle.outline)]
    for (u0, v0), (u1, v1) in reversed(list(pairwise(outline))):
        corners = [(left, v0, z + u0), (right, v0, z + u0), (right, v1, z + u1), (left, v1, z + u1)]
        if canvas.camera.project(*corners[2])[1] < canvas.camera.project(*corners[1])[1]:  # visible
            canvas.fill(corners, vehicle.paint, ident, 1.1)
            if u0 != u1 and v1 - v0 > 0.3:  # steep but not upright: a window
                canvas.fill(_inset(corners, 0.15), _GLASS, ident)
    if left > 0 or right < 0:
        near_side = left if left > 0 else right
        vehicle.side(canvas.side(near_side, z, z + vehicle.length, vehicle.height, ident, flipped=not oncoming))
    vehicle.end(canvas.front(left, z, vehicle.width, vehicle.height, ident), oncoming)


def draw_across(canvas: Canvas, vehicle: Vehicle, x: float, z: float, *, flipped: bool) -> None:
    """Draws a vehicle that points across the street, with its left end at x."""
    vehicle.side(canvas.front(x, z, vehicle.length, vehicle.height, canvas.instance(vehicle.label), flipped=flipped))


def car(dice: Dice) -> Vehicle:
    """A car or a small van."""
    paint, glass = dice.color(_PAINTS, 20), dice.vary(_GLASS, 20)
    width, height, length = dice.uniform(1.75, 1.95), dice.uniform(1.4, 1.8), dice.uniform(4.0, 4.8)
    waist, bonnet, boot = height * 0.6, length * dice.uniform(0.2, 0.27), length * dice.uniform(0.84, 0.98)
    middle = (bonnet + boot) / 2 + 0.15
    outline = [
        *((0.0, 0.3), (0.0, waist - 0.15), (bonnet, waist), (bonnet + 0.75, height)),
        *((boot - 0.35, height), (boot, waist), (length, waist), (length, 0.3)),
    ]
    dark = darker(paint, 0.6)

    def side(face: Face) -> None:
        face.box(0.1, 0.15, length - 0.1, 0.4, _DARK)
        face.polygon([(0.0, 0.3), (length, 0.3), (length, waist), (bonnet, waist), (0.0, waist - 0.15)], paint)
        low, top, left, right = waist - 0.05, height - 0.1, middle - 0.05, middle + 0.05
        face.polygon([(bonnet, low), (boot, low), (boot - 0.35, height), (bonnet + 0.75, height)], paint)
        face.polygon([(bonnet + 0.25, waist), (left, waist), (left, top), (bonnet + 0.82, top)], glass)
        face.polygon([(right, waist), (boot - 0.2, waist), (boot - 0.45, top), (right, top)], glass)
        face.box(0.0, 0.3, length, 0.4, dark)
        face.box(middle - 0.02, 0.4, middle + 0.02, waist, dark)
        for u in (length * 0.19, length * 0.8):
            _wheel(face, u, 0.33)
        face.box(0.0, waist - 0.32, 0.2, waist - 0.18, _HEADLIGHT)
        face.box(length - 0.16, waist - 0.25, length, waist - 0.08, _TAIL_LIGHT)

    def end(face: Face, is_front: bool) -> None:
        _tyres(face, width, 0.25, 0.35)
        face.box(0.1, 0.15, width - 0.1, 0.35, _DARK)
        top = waist - 0.15 if is_front else waist
        face.box(0.0, 0.3, width, top, paint)
        face.box(0.0, 0.28, width, 0.45, dark)
        for u in (0.06, width - 0.38):
            face.box(u, top - 0.22, u + 0.32, top - 0.05, _HEADLIGHT if is_front else _TAIL_LIGHT)
        if is_front:
            face.box(0.45, top - 0.22, width - 0.45, top - 0.06, _DARK)
        face.box(width / 2 - 0.26, 0.42, width / 2 + 0.26, 0.55, _PLATE)

    return Vehicle(Label.CAR, width, length, height, outline, paint, side, end)


def bus(dice: Dice) -> Vehicle:
    """A city bus: one row of large windows, two doors, wheels."""
    paint, stripe, glass = dice.color(_PAINTS, 20), dice.color(_PAINTS, 20), dice.vary(_GLASS, 15)
    width, height, length = 2.5, dice.uniform(2.95, 3.2), dice.uniform(9.0, 12.0)
    dark, pitch = darker(paint, 0.6), length / 7

    def side(face: Face) -> None:
        face.box(0.2, 0.15, length - 0.2, 0.35, _DARK)
        face.box(0.0, 0.3, length, height, paint)
        face.box(0.0, 0.75, length, 1.0, stripe)
        face.box(0.0, height - 0.18, length, height, dark)
        for number in range(7):
            door = number in (0, 3)
            start, end = number * pitch + 0.12, (number + 1) * pitch - 0.12
            face.box(start, 0.4 if door else 1.25, end, height - 0.45, glass)
            if door:
                face.bar(((start + end) / 2, 0.4), ((start + end) / 2, height - 0.45), 0.08, paint)
        for u in (length * 0.21, length * 0.75):
            _wheel(face, u, 0.48)

    def end(face: Face, is_front: bool) -> None:
        _tyres(face, width, 0.3, 0.4)
        face.box(0.1, 0.1, width - 0.1, 0.4, _DARK)
        face.box(0.0, 0.3, width, height, paint)
        face.box(0.0, 0.3, width, 0.55, dark)
        face.box(0.12, height * (0.4 if is_front else 0.55), width - 0.12, height - 0.45, glass)
        face.box(0.0, 0.8, width, 1.0, stripe)
        face.box(0.35, height - 0.38, width - 0.35, height - 0.1, _DARK)
        face.box(0.55, height - 0.31, width - 0.75, height - 0.17, _DISPLAY)
        for u in (0.1, width - 0.45):
            face.box(u, 0.58, u + 0.35, 0.76, _HEADLIGHT if is_front else _TAIL_LIGHT)
        if is_front:
            face.bar((width / 2, height * 0.4), (width / 2, height - 0.45), 0.06, dark)
        face.box(width / 2 - 0.26, 0.4, width / 2 + 0.26, 0.52, _PLATE)

    return Vehicle(Label.BUS, width, length, height, _cuboid(length, height), paint, side, end)


def truck(dice: Dice) -> Vehicle:
    """A truck: a cab, and a closed box body."""
    paint, logo, cab = (dice.color(_PAINTS, 20) for _ in range(3))
    width, height, length = 2.5, dice.uniform(3.2, 3.7), dice.uniform(6.5, 9.0)
    top, dark = height * 0.78, darker(paint, 0.7)
    outline = [
        (0.0, 0.4), (0.0, top), (2.1, top), (2.1, 0.9), (2.3, 0.9), (2.3, height), (length, height), (length, 0.4),
    ]  # fmt: skip

    def side(face: Face) -> None:
        face.box(0.4, 0.45, length - 0.2, 0.95, _DARK)
        face.box(2.3, 0.9, length, height, paint)
        for number in range(int((length - 2.3) / 0.8) + 1):
            face.bar((2.34 + number * 0.8, 0.9), (2.34 + number * 0.8, height), 0.06, dark)
        face.box(2.3, 0.9, length, 1.05, dark)
        face.box(3.2, height * 0.5, length - 1.0, height * 0.68, logo)
        face.polygon([(0.0, 0.4), (2.1, 0.4), (2.1, top), (0.0, top)], cab)
        face.polygon([(0.25, top * 0.58), (1.3, top * 0.58), (1.3, top - 0.25), (0.35, top - 0.25)], _GLASS)
        face.bar((1.45, 0.6), (1.45, top - 0.2), 0.05, darker(cab, 0.6))
        for u in (1.0, length - 2.2, length - 1.1):
            _wheel(face, u, 0.5)

    def end(face: Face, is_front: bool) -> None:
        _tyres(face, width, 0.5, 0.6)
        face.box(0.1, 0.15, width - 0.1, 0.9, _DARK)
        if is_front:
            _cab(face, cab, width, top)
            return
        face.box(0.0, 0.9, width, height, paint)
        for u in (0.06, width / 2, width - 0.06):
            face.bar((u, 0.9), (u, height), 0.08, dark)
        for u in (width * 0.35, width * 0.65):
            face.bar((u, 0.95), (u, height - 0.1), 0.06, _METAL)
        face.box(0.0, height - 0.12, width, height, dark)
        for number in range(5):
            face.box(number * 0.5, 0.6, number * 0.5 + 0.5, 0.82, _PLATE if number % 2 else _TAIL_LIGHT)

    return Vehicle(Label.TRUCK, width, length, height, outline, paint, side, end)


def _cab(face: Face, paint: Color, width: float, top: float) -> None:
    face.box(0.0, 0.4, width, top, paint)
    face.polygon([(0.12, top * 0.56), (width - 0.12, top * 0.56), (width - 0.25, top - 0.2), (0.25, top - 0.2)], _GLASS)
    for v in (0.8, 1.0, 1.2):
        face.box(0.5, v, width - 0.5, v + 0.1, _DARK)
    face.box(0.0, 0.35, width, 0.6, darker(paint, 0.6))
    for u in (0.1, width - 0.4):
        face.box(u, 0.5, u + 0.3, 0.7, _HEADLIGHT)
    for u in (-0.22, width):
        face.box(u, top * 0.6, u + 0.22, top * 0.82, _DARK)


def train(dice: Dice) -> Vehicle:
    """A tram: a long row of windows, covered wheels, equipment and a pantograph on the roof."""
    paint, stripe, glass = dice.color(_PAINTS, 20), dice.color(_PAINTS, 20), dice.vary(_GLASS, 12)
    width, height, length = 2.5, dice.uniform(3.3, 3.6), dice.uniform(20.0, 28.0)

    def side(face: Face) -> None:
        face.box(0.0, 0.15, length, height, paint)
        face.box(0.0, 0.1, length, 0.4, _DARK)
        face.box(0.3, height * 0.45, length - 0.3, height - 0.55, glass)
        face.box(0.0, 0.85, length, 1.15, stripe)
        face.box(0.0, height - 0.22, length, height, _METAL)
        for start in range(0, int(length) - 4, 5):
            face.box(start + 1.5, 0.45, start + 2.8, height - 0.5, stripe)
            face.box(start + 1.62, 0.9, start + 2.68, height - 0.65, glass)
            face.box(start + 4.85, 0.15, start + 5.15, height, _DARK)
            face.box(start + 3.0, height, start + 4.6, height + 0.35, _METAL)
        _pantograph(face, length * 0.35, height)

    def end(face: Face, is_front: bool) -> None:
        face.box(0.5, height, width - 0.5, height + 0.35, _METAL)
        face.box(0.0, 0.15, width, height, paint)
        face.polygon([(0.15, 1.4), (width - 0.15, 1.4), (width - 0.4, height - 0.45), (0.4, height - 0.45)], glass)
        face.polygon([(0.0, 1.15), (width, 1.15), (width / 2, 0.35)], stripe)
        face.box(0.15, 0.1, width - 0.15, 0.3, _DARK)
        face.disc(width / 2, height - 0.22, 0.17, _HEADLIGHT if is_front else _DARK)
        for u in (0.4, width - 0.4):
            face.disc(u, 1.05, 0.18, _HEADLIGHT if is_front else _TAIL_LIGHT)
        _pantograph(face, width / 2, height + 0.35)

    return Vehicle(Label.TRAIN, width, length, height, _cuboid(length, height), _METAL, side, end)


def _pantograph(face: Face, u: float, v: float) -> None:
    face.bar((u - 0.5, v), (u + 0.3, v + 0.6), 0.14, _DARK)
    face.bar((u + 0.3, v + 0.5), (u - 0.2, v + 1.1), 0.14, _DARK)
    face.bar((u - 0.8, v + 1.1), (u + 0.5, v + 1.1), 0.16, _DARK)


def _wheel(face: Face, u: float, radius: float) -> None:
    face.disc(u, radius, radius * 1.25, _DARK)
    face.disc(u, radius, radius, _TYRE)
    face.disc(u, radius, radius * 0.55, _METAL)


def _tyres(face: Face, width: float, tyre: float, height: float) -> None:
    for u in (0.08, width - 0.08 - tyre):
        face.box(u, 0.0, u + tyre, height, _TYRE)


def _cuboid(length: float, height: float) -> list[Flat]:
    return [(0.0, 0.3), (0.0, height), (length, height), (length, 0.3)]


def _inset(corners: Sequence[Point], share: float) -> list[Point]:
    """Shrinks a polygon towards its centre."""
    x, y, z = (sum(corner[axis] for corner in corners) / len(corners) for axis in range(3))
    keep = 1.0 - share
    return [(x + (px - x) * keep, y + (py - y) * keep, z + (pz - z) * keep) for px, py, pz in corners]
