"""A small software renderer: a pinhole camera over flat ground, filled polygons, and upright faces to draw shapes on.

Scenes are bit-identical on every machine. Random numbers are the raw bits of PCG64, whose stream NumPy guarantees;
polygons are filled by OpenCV's integer rasteriser; everything else is integer arithmetic or a sequence of correctly
rounded floating-point operations. Sums of float arrays, `sin`, `exp` and the like, whose last bit depends on the
processor, are not used.

World coordinates are metres: x to the right, y upwards from the ground, z away from the camera.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Color: TypeAlias = tuple[int, int, int]
Flat: TypeAlias = tuple[float, float]
Point: TypeAlias = tuple[float, float, float]
Floats: TypeAlias = NDArray[np.float32]
Bools: TypeAlias = NDArray[np.bool_]
Item = TypeVar("Item")

_NEAREST = 2.0  # metres; near plane of the camera
_FRACTION_BITS = 4  # OpenCV takes polygon corners in 1/16 pixels
# a circle as a polygon of 16 corners; constants, as the last bit of `cos` depends on the C library
_QUARTER = ((1.0, 0.0), (0.92388, 0.38268), (0.70711, 0.70711), (0.38268, 0.92388))
_CIRCLE = [corner for turn in range(4) for corner in (((c, s), (-s, c), (-c, -s), (s, -c))[turn] for c, s in _QUARTER)]


class Label(IntEnum):
    """The Cityscapes label ids that occur in the scenes."""

    EGO_VEHICLE = 1
    STATIC = 4
    ROAD = 7
    SIDEWALK = 8
    BUILDING = 11
    WALL = 12
    FENCE = 13
    POLE = 17
    TRAFFIC_LIGHT = 19
    TRAFFIC_SIGN = 20
    VEGETATION = 21
    TERRAIN = 22
    SKY = 23
    PERSON = 24
    RIDER = 25
    CAR = 26
    TRUCK = 27
    BUS = 28
    TRAIN = 31
    MOTORCYCLE = 32
    BICYCLE = 33


class Dice:
    """A random number generator with platform-independent results.

    Args:
        key: Integers >= 0; each key gives an independent sequence.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * (int(self._bits.random_raw()) / 2.0**64)

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform(0.0, 1.0) < probability

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.integer(0, len(items) - 1)]

    def vary(self, color: Color, amount: int) -> Color:
        """A colour near the given one: brightness shifts by up to `amount`, each channel by up to half of that."""
        shift = self.integer(-amount, amount)
        red, green, blue = (value + shift + self.integer(-amount // 2, amount // 2) for value in color)
        return _clip(red), _clip(green), _clip(blue)

    def color(self, palette: Sequence[Color], amount: int) -> Color:
        """A colour near one of a palette."""
        return self.vary(self.choice(palette), amount)

    def noise(self, height: int, width: int) -> NDArray[np.uint8]:
        """White noise, (height, width) uint8."""
        words = self._bits.random_raw((height * width + 7) // 8).astype("<u8")  # little-endian on every machine
        return words.view(np.uint8)[: height * width].reshape(height, width)

    def smooth_noise(self, height: int, width: int, cell: int) -> NDArray[np.uint8]:
        """Noise with a correlation length of `cell` pixels, (height, width) uint8."""
        knots = self.noise(height // cell + 2, width // cell + 2)
        # the only interpolation of OpenCV that is bit-exact everywhere
        return cv2.resize(knots, (width, height), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.uint8, copy=False)


@dataclass(frozen=True)
class Camera:
    """A camera that looks along z, parallel to the ground.

    Args:
        focal: Focal length in pixels.
        column: Column of the vanishing point.
        row: Row of the horizon.
        height: Metres above the ground.
    """

    focal: float
    column: float
    row: float
    height: float

    def project(self, x: float, y: float, z: float) -> Flat:
        """Projects a world point to (column, row); 0.5 is the centre of the first pixel."""
        scale = self.focal / (z if z > _NEAREST else _NEAREST)
        return self.column + scale * x, self.row + scale * (self.height - y)


@dataclass(frozen=True)
class Light:
    """Sunlight and haze.

    Args:
        sun: (x, z) offset of the shadow of a point one metre above the ground.
        shadow: Brightness of the ground in a shadow; 1 for an overcast sky.
        shade: Brightness of upright faces that are turned away from the sun.
        haze: Colour of the haze.
        visibility: Distance in metres at which colours are half haze.
    """

    sun: Flat
    shadow: float
    shade: float
    haze: Color
    visibility: float

    def seen(self, color: Color, z: float, gain: float) -> Color:
        """A colour with the given brightness and the haze at distance z."""
        share = z / (z + self.visibility)
        gain *= 1.0 - share
        red, green, blue = (_clip(int(value * gain + air * share)) for value, air in zip(color, self.haze, strict=True))
        return red, green, blue


class Canvas:
    """An image with its label map, and the drawing operations.

    Args:
        size: (height, width) in pixels.
        camera: Projects world coordinates to pixels.
        light: Shades the colours.
        dice: Random numbers of the textures.
    """

    def __init__(self, size: tuple[int, int], camera: Camera, light: Light, dice: Dice) -> None:
        self.size = size
        self.camera = camera
        self.light = light
        self.colors = np.zeros((*size, 3), np.uint8)
        self.ids = np.zeros(size, np.uint16)  # as in Cityscapes' instanceIds: label id, or label id * 1000 + number
        self.shadows = np.zeros(size, np.uint8)  # 1 where the ground is in shadow
        # noise textures at the scale of pixels, leaves and clouds
        self.grain = dice.noise(*size)
        self.clumps = dice.smooth_noise(*size, cell=max(size[0] // 64, 1))
        self.clouds = dice.smooth_noise(*size, cell=max(size[0] // 10, 1))
        self._instances: dict[Label, int] = {}

    def instance(self, label: Label) -> int:
        """The id of a new instance of a class."""
        number = self._instances.get(label, 0)
        self._instances[label] = number + 1
        return label * 1000 + number

    def fill(self, corners: Sequence[Point], color: Color | None, ident: int, gain: float = 1.0) -> None:
        """Fills a convex polygon; with colour None it is labelled but transparent."""
        if color is not None:
            color = self.light.seen(color, (corners[0][2] + corners[-1][2]) / 2, gain)
        self._fill(corners, color, ident)

    def strip(self, left: float, right: float, near: float, far: float, color: Color, ident: int) -> None:
        """Fills a rectangle of the ground, which is shaded later."""
        self._fill(((left, 0.0, near), (right, 0.0, near), (right, 0.0, far), (left, 0.0, far)), color, ident)

    def cast_shadow(self, shadow: Sequence[Flat]) -> None:
        """Marks a convex polygon of the ground, given by its corners (x, z), as shadow."""
        cv2.fillConvexPoly(self.shadows, self._pixels([(x, 0.0, z) for x, z in shadow]), 1, cv2.LINE_8, _FRACTION_BITS)

    def front(self, x: float, z: float, length: float, height: float, ident: int, *, flipped: bool = False) -> Face:
        """A face turned to the camera from x to x + length; u points to the right, or to the left if flipped."""
        foot, direction = ((x + length, z), (-1.0, 0.0)) if flipped else ((x, z), (1.0, 0.0))
        return Face(self, foot, direction, length, height, ident)

    def side(self, x: float, near: float, far: float, height: float, ident: int, *, flipped: bool = False) -> Face:
        """A face along the street; u points away from the camera, or towards it if flipped."""
        is_sunny = (x > 0) == (self.light.sun[0] > 0)
        near = max(near, _NEAREST)
        foot, direction = ((x, far), (0.0, -1.0)) if flipped else ((x, near), (0.0, 1.0))
        return Face(self, foot, direction, far - near, height, ident, 1.1 if is_sunny else self.light.shade)

    def _fill(self, corners: Sequence[Point], color: Color | None, ident: int) -> None:
        points = self._pixels(corners)
        if color is not None:
            cv2.fillConvexPoly(self.colors, points, color, cv2.LINE_8, _FRACTION_BITS)
        cv2.fillConvexPoly(self.ids, points, ident, cv2.LINE_8, _FRACTION_BITS)

    def _pixels(self, corners: Sequence[Point]) -> NDArray[np.int32]:
        """Projects corners to OpenCV's fixed-point pixels, whose origin is the centre of the first pixel."""
        projected = [self.camera.project(x, y, z) for x, y, z in corners]
        scale = 1 << _FRACTION_BITS
        return np.array([[int((at - 0.5) * scale) for at in point] for point in projected], np.int32)


@dataclass(eq=False)
class Face:
    """An upright rectangle with coordinates (u, v) in metres: u along its foot, v above the ground.

    Args:
        canvas: What it draws on.
        foot: (x, z) of u = 0.
        direction: (x, z) of the u axis, a unit vector.
        length: Largest u; textures end there, polygons may extend beyond it.
        height: Largest v, with the same effect.
        ident: Label or instance id.
        gain: Brightness.
    """

    canvas: Canvas
    foot: Flat
    direction: Flat
    length: float
    height: float
    ident: int
    gain: float = 1.0

    def polygon(self, corners: Sequence[Flat], color: Color | None) -> None:
        """A convex polygon; with colour None it is labelled but transparent (the spokes of a wheel)."""
        self.canvas.fill([self._point(u, v) for u, v in corners], color, self.ident, self.gain)

    def box(self, u0: float, v0: float, u1: float, v1: float, color: Color | None) -> None:
        """A rectangle."""
        self.polygon([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], color)

    def disc(self, u: float, v: float, radius: float, color: Color | None) -> None:
        """A disc."""
        self.polygon([(u + cos * radius, v + sin * radius) for cos, sin in _CIRCLE], color)

    def ring(self, u: float, v: float, radius: float, width: float, color: Color) -> None:
        """An annulus."""
        outer = [(u + cos * radius, v + sin * radius) for cos, sin in _CIRCLE]
        inner = [(u + cos * (radius - width), v + sin * (radius - width)) for cos, sin in _CIRCLE]
        for number in range(len(_CIRCLE)):
            self.polygon([outer[number - 1], outer[number], inner[number], inner[number - 1]], color)

    def bar(self, start: Flat, end: Flat, width: float, color: Color | None) -> None:
        """A thick line with square ends."""
        along_u, along_v = end[0] - start[0], end[1] - start[1]
        half = width / 2 / math.sqrt(along_u * along_u + along_v * along_v)
        corners = ((start, -half), (start, half), (end, half), (end, -half))
        self.polygon([(u - along_v * offset, v + along_u * offset) for (u, v), offset in corners], color)

    def paint(self, mask: Bools, color: Color, factor: Floats | None = None) -> None:
        """Paints a mask over the pixels of `uv`, with a brightness factor per pixel if given."""
        rows, columns = self._window
        z = self.foot[1] + self.direction[1] * self.length / 2  # haze as at the middle of the face
        seen = np.array(self.canvas.light.seen(color, z, self.gain), np.uint8)
        values = seen if factor is None else scaled(seen, factor)
        np.copyto(self.canvas.colors[rows, columns], values, where=mask[..., None])
        np.copyto(self.canvas.ids[rows, columns], np.uint16(self.ident), where=mask)

    @cached_property
    def uv(self) -> tuple[Floats, Floats]:
        """u (1, w) and v (h, w) at the centres of the pixels that the face covers."""
        rows, columns = self._window
        camera, (x, z), (dx, dz) = self.canvas.camera, self.foot, self.direction
        slope = (_centres(columns) - np.float32(camera.column)) * np.float32(1 / camera.focal)
        u = (slope * np.float32(z) - np.float32(x)) / (np.float32(dx) - slope * np.float32(dz))
        scale = (u * np.float32(dz) + np.float32(z)) * np.float32(1 / camera.focal)
        v = np.float32(camera.height) - (_centres(rows) - np.float32(camera.row))[:, None] * scale
        return u[None], v

    def texture(self, noise: NDArray[np.uint8], strength: float) -> Floats:
        """Crops a noise texture of the canvas to the face, scaled to -strength to strength."""
        rows, columns = self._window
        return noise[rows, columns] * np.float32(strength / 128) - np.float32(strength)

    @cached_property
    def _window(self) -> tuple[slice, slice]:
        corners = [
            self.canvas.camera.project(*self._point(u, v)) for u in (0.0, self.length) for v in (0.0, self.height)
        ]
        height, width = self.canvas.size
        return _span([row for _, row in corners], height), _span([column for column, _ in corners], width)

    def _point(self, u: float, v: float) -> Point:
        return self.foot[0] + self.direction[0] * u, v, self.foot[1] + self.direction[1] * u


def darker(color: Color, factor: float) -> Color:
    """A colour times a brightness factor."""
    red, green, blue = color
    return int(red * factor), int(green * factor), int(blue * factor)


def scaled(colors: NDArray[np.uint8], factor: Floats) -> NDArray[np.uint8]:
    """Colours (..., 3) times factors (...), which are clipped to 0 to 2, in fixed point."""
    steps = np.clip(factor * np.float32(128), 0, 256).astype(np.uint16)
    products: NDArray[np.uint16] = np.multiply(colors, steps[..., None], dtype=np.uint16)
    clipped: NDArray[np.uint8] = np.minimum(products >> np.uint16(7), 255).astype(np.uint8)
    return clipped


def _span(edges: Sequence[float], limit: int) -> slice:
    """The pixels whose centres lie between the smallest and the largest edge."""
    first, last = (min(max(math.ceil(edge - 0.5), 0), limit) for edge in (min(edges), max(edges)))
    return slice(first, last)


def _centres(pixels: slice) -> Floats:
    return np.arange(pixels.start, pixels.stop, dtype=np.float32) + np.float32(0.5)


def _clip(value: int) -> int:
    return min(max(value, 0), 255)
