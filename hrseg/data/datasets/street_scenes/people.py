"""Pedestrians, bicycles and motorcycles, and their riders."""

from __future__ import annotations

from dataclasses import replace

from hrseg.data.datasets.street_scenes.canvas import Canvas, Color, Dice, Face, Flat, Label

_CLOTHES: tuple[Color, ...] = (
    (35, 37, 45), (30, 45, 85), (170, 40, 40), (200, 195, 185), (90, 110, 70), (215, 175, 60), (110, 80, 60),
    (60, 110, 150), (150, 90, 140), (120, 122, 126), (225, 110, 40),
)  # fmt: skip
_SKIN: tuple[Color, ...] = ((226, 182, 150), (198, 145, 110), (150, 102, 72), (96, 66, 50))
_HAIR: tuple[Color, ...] = ((30, 24, 20), (80, 55, 35), (160, 125, 75), (140, 138, 135))
_FRAMES: tuple[Color, ...] = (
    (40, 40, 44), (170, 35, 40), (40, 80, 150), (190, 190, 190), (60, 120, 70), (220, 170, 50), (110, 60, 110),
)  # fmt: skip
_HEADINGS: tuple[Flat, ...] = ((1.0, 0.0), (0.96, 0.28), (0.96, -0.28), (0.8, 0.6), (0.8, -0.6))  # unit vectors
_TYRE: Color = (26, 26, 28)
_METAL: Color = (150, 152, 155)
_HEADLIGHT: Color = (250, 245, 215)


def draw_person(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """A pedestrian at (x, z)."""
    height = dice.uniform(1.6, 1.95)
    face = canvas.front(x - 0.5, z, 1.0, height, canvas.instance(Label.PERSON))
    coat, trousers = dice.color(_CLOTHES, 20), dice.color(_CLOTHES, 20)
    hip, shoulder, stride = height * 0.5, height * 0.8, dice.uniform(0.08, 0.3)
    for foot in (-stride, stride):
        face.bar((0.5 + foot * 0.4, hip), (0.5 + foot, 0.06), 0.21, trousers)
        face.bar((0.5 + foot - 0.1, 0.05), (0.5 + foot + 0.14, 0.05), 0.12, _TYRE)
    for arm in (-1.0, 1.0):
        face.bar((0.5 + arm * 0.24, shoulder - 0.05), (0.5 + arm * dice.uniform(0.28, 0.42), hip), 0.15, coat)
    hem = hip - dice.choice((0.05, 0.05, 0.3))
    collar = shoulder + 0.06
    coat_shape = [(0.25, hem), (0.75, hem), (0.79, shoulder), (0.64, collar), (0.36, collar), (0.21, shoulder)]
    face.polygon(coat_shape, coat)
    if dice.chance(0.4):
        face.box(0.68, hip - 0.05, 0.98, hip + 0.3, dice.color(_CLOTHES, 20))  # a bag
    face.disc(0.5, height - 0.16, 0.17, dice.choice(_HAIR))
    face.disc(0.5, height - 0.2, 0.13, dice.choice(_SKIN))


def draw_bicycle(canvas: Canvas, dice: Dice, x: float, z: float, *, ridden: bool) -> None:
    """A bicycle with or without rider, centred at x."""
    face = _two_wheeler(canvas, dice, Label.BICYCLE, x, z, 1.86)
    paint = dice.color(_FRAMES, 20)
    for u in (0.38, 1.48):
        face.disc(u, 0.37, 0.38, None)
        face.bar((u - 0.3, 0.37), (u + 0.3, 0.37), 0.03, _METAL)
        face.bar((u, 0.06), (u, 0.66), 0.03, _METAL)
        face.ring(u, 0.37, 0.34, 0.08, _TYRE)
    face.polygon([(0.38, 0.36), (0.9, 0.32), (1.35, 0.85), (0.75, 0.85)], None)
    rear, crank, front = (0.38, 0.36), (0.9, 0.32), (1.48, 0.36)
    face.bar(rear, crank, 0.08, paint)
    face.bar(rear, (0.72, 0.8), 0.08, paint)
    face.bar(crank, (0.7, 0.95), 0.08, paint)
    face.bar((0.72, 0.8), (1.3, 0.82), 0.08, paint)
    face.bar(crank, (1.32, 0.78), 0.08, paint)
    face.bar(front, (1.28, 1.02), 0.08, paint)
    face.bar((0.56, 0.98), (0.86, 0.98), 0.09, _TYRE)
    face.bar((1.15, 1.06), (1.42, 1.04), 0.08, _TYRE)
    if ridden:
        _rider(canvas, dice, face, hip=(0.72, 1.0), pedal=(0.92, 0.3), bar=(1.28, 1.06))


def draw_motorcycle(canvas: Canvas, dice: Dice, x: float, z: float, *, ridden: bool) -> None:
    """A motorcycle with or without rider, centred at x."""
    face = _two_wheeler(canvas, dice, Label.MOTORCYCLE, x, z, 2.14)
    paint = dice.color(_FRAMES, 20)
    for u in (0.38, 1.75):
        face.disc(u, 0.37, 0.37, _TYRE)
        face.disc(u, 0.37, 0.18, _METAL)
    face.polygon([(0.5, 0.25), (1.4, 0.25), (1.55, 0.7), (0.6, 0.75)], dice.vary((55, 56, 60), 15))
    face.bar((0.2, 0.3), (0.95, 0.3), 0.14, _METAL)
    face.polygon([(0.1, 0.85), (0.75, 0.6), (1.0, 0.6), (0.95, 0.95), (0.2, 1.0)], dice.vary(paint, 10))
    face.bar((0.3, 0.98), (1.0, 0.92), 0.14, _TYRE)
    face.polygon([(0.9, 0.65), (1.5, 0.6), (1.6, 0.95), (1.35, 1.15), (0.95, 1.05)], paint)
    face.bar((1.75, 0.36), (1.48, 1.1), 0.12, _METAL)
    face.polygon([(1.45, 0.85), (1.75, 0.85), (1.7, 1.1), (1.5, 1.3)], paint)
    face.disc(1.68, 0.97, 0.1, _HEADLIGHT)
    face.bar((1.25, 1.2), (1.5, 1.15), 0.1, _TYRE)
    if ridden:
        _rider(canvas, dice, face, hip=(0.75, 1.05), pedal=(1.05, 0.35), bar=(1.35, 1.18))


def _two_wheeler(canvas: Canvas, dice: Dice, label: Label, x: float, z: float, length: float) -> Face:
    """The face of a two-wheeler that points roughly across the street, to the left or right."""
    across, away = dice.choice(_HEADINGS)
    if dice.chance(0.5):
        across = -across
    foot = x - across * length / 2, z - away * length / 2
    return Face(canvas, foot, (across, away), length, 1.2, canvas.instance(label))


def _rider(canvas: Canvas, dice: Dice, vehicle: Face, *, hip: Flat, pedal: Flat, bar: Flat) -> None:
    """Draws a rider through the given points of a two-wheeler's face."""
    face = replace(vehicle, ident=canvas.instance(Label.RIDER))
    coat, trousers = dice.color(_CLOTHES, 20), dice.color(_CLOTHES, 20)
    (hip_u, hip_v), (pedal_u, pedal_v) = hip, pedal
    shoulder_u, shoulder_v = hip_u + 0.28, hip_v + 0.52
    knee = hip_u + 0.38, (hip_v + pedal_v) / 2 + 0.12
    face.bar(hip, knee, 0.24, trousers)
    face.bar(knee, pedal, 0.19, trousers)
    face.bar((pedal_u - 0.08, pedal_v - 0.03), (pedal_u + 0.16, pedal_v - 0.03), 0.1, _TYRE)
    hem = [(hip_u - 0.22, hip_v - 0.1), (hip_u + 0.2, hip_v - 0.05)]
    face.polygon([*hem, (shoulder_u + 0.18, shoulder_v), (shoulder_u - 0.19, shoulder_v + 0.08)], coat)
    face.bar((shoulder_u, shoulder_v), bar, 0.16, dice.vary(coat, 12))
    helmet = dice.vary(dice.choice((*_CLOTHES, *_HAIR)), 10)  # or hair
    face.disc(shoulder_u + 0.1, shoulder_v + 0.24, 0.19, helmet)
    face.disc(shoulder_u + 0.15, shoulder_v + 0.18, 0.13, dice.choice(_SKIN))
