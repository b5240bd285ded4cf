"""Sky and ground: grass, sidewalks with kerbs, a road with lane markings, and a crossing street."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hrseg.data.datasets.street_scenes.canvas import Canvas, Color, Dice, Flat, Label, darker, scaled

_GRASS: tuple[Color, ...] = ((106, 134, 62), (130, 136, 74), (142, 126, 80), (96, 126, 66))
_ASPHALT: tuple[Color, ...] = ((88, 88, 92), (74, 74, 82), (102, 99, 97), (92, 88, 90), (110, 108, 108))
_PAVING: tuple[Color, ...] = ((152, 146, 138), (168, 150, 136), (150, 124, 112), (164, 162, 158), (140, 136, 134))
_KERBSTONE: Color = (168, 166, 160)
_LANE_MARKS: tuple[Color, ...] = ((214, 214, 208), (206, 200, 190), (214, 186, 96))
# zenith, horizon, clouds
_SKIES: tuple[tuple[Color, Color, Color], ...] = (
    ((88, 132, 190), (180, 205, 225), (238, 240, 242)),
    ((120, 160, 205), (205, 215, 222), (225, 228, 232)),
    ((150, 156, 162), (200, 202, 204), (128, 134, 140)),
    ((206, 210, 214), (236, 236, 234), (182, 188, 196)),
    ((120, 130, 165), (236, 190, 150), (210, 150, 130)),
)
_NEAR, _FAR = 2.0, 200.0  # metres; range of the ground


@dataclass(frozen=True)
class Roadside:
    """One side of the street, in metres.

    Args:
        sign: -1 for the left side, 1 for the right one.
        kerb: Distance from x = 0 to the edge of the road.
        verge: Width of the grass between road and sidewalk.
        sidewalk: Width of the sidewalk.
        garden: Width of the grass between sidewalk and houses.
    """

    sign: float
    kerb: float
    verge: float
    sidewalk: float
    garden: float

    @property
    def walk(self) -> Flat:
        """Distances from x = 0 to the edges of the sidewalk."""
        begin = self.kerb + self.verge
        return begin, begin + self.sidewalk

    @property
    def edge(self) -> float:
        """Distance from x = 0 to the houses."""
        return self.walk[1] + self.garden


def draw_sky(canvas: Canvas, dice: Dice) -> None:
    """A colour gradient with clouds: blue, white, grey, or a sunset."""
    zenith, horizon, cloud = (np.array(color, np.int16) for color in dice.choice(_SKIES))
    rows = min(int(canvas.camera.row) + 2, canvas.size[0])
    texture = canvas.clouds[:rows] * np.float32(2 / 128) + canvas.clumps[:rows] * np.float32(2 / 700)
    cover = (np.clip(texture + np.float32(dice.uniform(-3.4, -1.6)), 0, 1) * 128).astype(np.int16)
    height = np.arange(rows, dtype=np.int32)[:, None, None]
    clear = (zenith + height * (horizon - zenith) // rows).astype(np.int16)
    canvas.colors[:rows] = clear + (((cloud - clear) * cover[..., None]) >> 7)
    canvas.ids[:rows] = Label.SKY


def draw_ground(canvas: Canvas, dice: Dice, sides: Sequence[Roadside], crossing: Flat, rails: float | None) -> None:
    """The ground below the horizon.

    Args:
        canvas: What it is drawn on.
        dice: The random numbers.
        sides: Left and right.
        crossing: Distances in metres from the camera to the edges of the crossing street.
        rails: x of the centre of a tram track; None for no track.
    """
    first = min(max(int(canvas.camera.row), 0), canvas.size[0])
    canvas.colors[first:] = dice.color(_GRASS, 16)
    canvas.ids[first:] = Label.TERRAIN
    verge, kerb = dice.color(_GRASS, 16), dice.vary(_KERBSTONE, 20)
    for side in sides:
        inner, outer = side.walk
        canvas.strip(side.sign * side.kerb, side.sign * inner, _NEAR, _FAR, verge, Label.TERRAIN)
        _draw_paving(canvas, dice, side.sign * inner, side.sign * outer)
        canvas.strip(side.sign * side.kerb, side.sign * (side.kerb + 0.25), _NEAR, _FAR, kerb, Label.SIDEWALK)
    asphalt = dice.color(_ASPHALT, 12)
    left, right = -sides[0].kerb, sides[1].kerb
    canvas.strip(left, right, _NEAR, _FAR, asphalt, Label.ROAD)
    canvas.strip(-_FAR, _FAR, *crossing, asphalt, Label.ROAD)
    _draw_lane_marks(canvas, dice, left, right, crossing)
    if rails is not None:
        for rail in (rails - 0.72, rails + 0.72):
            canvas.strip(rail - 0.06, rail + 0.06, _NEAR, _FAR, (58, 56, 56), Label.ROAD)
    _weather(canvas, first)


def _draw_paving(canvas: Canvas, dice: Dice, inner: float, outer: float) -> None:
    """A paved sidewalk."""
    stone = dice.color(_PAVING, 18)
    canvas.strip(inner, outer, _NEAR, _FAR, stone, Label.SIDEWALK)
    joint, slab, columns = darker(stone, 0.67), dice.uniform(0.7, 1.4), dice.integer(2, 4)
    for number in range(int(22.0 / slab)):  # farther joints are thinner than a pixel
        z = _NEAR + number * slab
        canvas.strip(inner, outer, z, z + 0.1, joint, Label.SIDEWALK)
    for number in range(1, columns):
        x = inner + (outer - inner) * number / columns
        canvas.strip(x - 0.03, x + 0.03, _NEAR, 25.0, joint, Label.SIDEWALK)


def _draw_lane_marks(canvas: Canvas, dice: Dice, left: float, right: float, crossing: Flat) -> None:
    paint, half = dice.vary(dice.choice(_LANE_MARKS), 10), dice.uniform(0.06, 0.1)
    middle = dice.uniform(-0.8, 0.8)

    def line(x: float, dash: float | None) -> None:
        for near, far in ((_NEAR, crossing[0] - 5.0), (crossing[1], _FAR / 2)):
            z = near
            while z < far:
                end = min(z + (dash or far), far)
                canvas.strip(x - half, x + half, z, end, paint, Label.ROAD)
                z = end + (dash or 0.0)

    line(middle, None if dice.chance(0.3) else dice.uniform(2.0, 4.0))
    for edge in (left + 0.4, right - 0.4):
        if dice.chance(0.5):
            line(edge, None)
    if dice.chance(0.4):
        line(middle + dice.choice((-1.0, 1.0)) * dice.uniform(2.4, 2.9), dice.uniform(1.5, 3.0))
    if dice.chance(0.6):  # a stop line and a zebra crossing
        x = left + 0.3
        while x < right - 0.5:
            canvas.strip(x, x + 0.5, crossing[0] - 3.5, crossing[0] - 0.8, paint, Label.ROAD)
            x += 1.0
        canvas.strip(middle, right, crossing[0] - 4.8, crossing[0] - 4.4, paint, Label.ROAD)


def _weather(canvas: Canvas, first: int) -> None:
    """Adds texture, shadows and haze to the rows from `first` on."""
    camera, light = canvas.camera, canvas.light
    rows = np.arange(first, canvas.size[0], dtype=np.float32)[:, None] + np.float32(0.5)
    z = np.minimum(np.float32(camera.focal * camera.height) / np.maximum(rows - np.float32(camera.row), 0.1), _FAR)
    near = np.minimum(12 / z, 1)  # far pixels average out the grain
    is_grass = canvas.ids[first:] == Label.TERRAIN
    relief = (canvas.clouds[first:] * np.float32(0.2 / 256)) + (canvas.grain[first:] * near) * np.float32(0.3 / 256)
    leaves = (canvas.grain[first:] * np.float32(0.3 / 256) + canvas.clumps[first:] * np.float32(0.5 / 256)) * near
    relief += np.where(is_grass, leaves - near * np.float32(0.4), np.float32(0.0))
    relief += 1 - np.float32(0.1) - near * np.float32(0.15)
    relief *= np.where(canvas.shadows[first:] > 0, np.float32(light.shadow), np.float32(1.0))
    share = z / (z + np.float32(light.visibility))
    haze = (np.array(light.haze, np.float32) * share[..., None]).astype(np.uint16)
    canvas.colors[first:] = np.minimum(scaled(canvas.colors[first:], relief * (1 - share)) + haze, 255)
