"""The edge of the street: houses, walls, fences, hedges, trees."""

from __future__ import annotations

import numpy as np

from hrseg.data.datasets.street_scenes.canvas import Bools, Canvas, Color, Dice, Face, Floats, Label

_PLASTERS: tuple[Color, ...] = (
    (184, 166, 140), (200, 190, 174), (208, 182, 124), (190, 146, 122),
    (150, 158, 164), (166, 100, 78), (170, 176, 160),
)  # fmt: skip
_STONES: tuple[Color, ...] = ((146, 76, 58), (120, 112, 108), (96, 88, 84), (134, 106, 88), (150, 130, 108))
_LEAVES: tuple[Color, ...] = ((56, 84, 38), (74, 96, 46), (44, 68, 40), (96, 104, 44), (124, 88, 42), (62, 88, 62))
_BARK: tuple[Color, ...] = ((72, 58, 46), (96, 82, 68), (56, 48, 42))
_RAILINGS: tuple[Color, ...] = (
    (120, 124, 126), (70, 74, 76), (150, 148, 140), (60, 76, 66), (120, 86, 58), (225, 225, 220),
)  # fmt: skip
_SIGNBOARDS: tuple[Color, ...] = ((180, 50, 45), (50, 90, 150), (220, 180, 70), (70, 120, 80), (225, 222, 214))
_ROOFS: tuple[Color, ...] = ((110, 58, 46), (72, 72, 78), (90, 84, 80))
_GLASS: Color = (68, 74, 82)
_WHITE: Color = (232, 232, 226)
_DARK: Color = (28, 30, 32)


def draw_house(face: Face, dice: Dice) -> None:
    """A facade: rows of windows over a shop or a door, and a roof."""
    u, v = face.uv
    length, height = face.length, face.height
    stone = dice.color(_PLASTERS, 20)
    relief = face.texture(face.canvas.grain, 0.08) + face.texture(face.canvas.clouds, 0.1) + 1
    if dice.chance(0.4):  # courses of brick
        relief -= np.where(v * np.float32(1 / dice.uniform(0.3, 0.5)) % 1 < 0.25, np.float32(0.14), np.float32(0))
    face.paint((v >= 0) & (v < height), stone, relief)

    floor, storey, pitch = dice.uniform(3.2, 4.0), dice.uniform(2.8, 3.4), dice.uniform(1.7, 2.8)
    roof = height - dice.uniform(0.6, 2.2)
    level, bay = (v - np.float32(floor)) * np.float32(1 / storey), u * np.float32(1 / pitch)
    up, aside = level % 1, np.abs(bay % 1 - np.float32(0.5))
    half, sill = dice.uniform(0.22, 0.36), dice.uniform(0.15, 0.3)
    storeys = (level >= 0) & (level < int((roof - floor) / storey))
    if dice.chance(0.35):
        face.paint(storeys & (up < 0.1), dice.vary(stone, 40))  # balconies, or a cornice
    frame = storeys & (aside < half) & (up > sill) & (up < 0.85)
    face.paint(frame, dice.vary(dice.choice((_WHITE, _DARK, stone)), 15))
    pane = frame & (aside < half - 0.06) & (aside > 0.03) & (up > sill + 0.05) & (up < 0.8)
    glint = np.array([dice.uniform(0.45, 1.9) for _ in range(16)], np.float32)
    window = np.floor(bay) * 7 + np.floor(level) * 13
    face.paint(pane, dice.vary(_GLASS, 20), glint[window.astype(np.int32) & 15])

    if dice.chance(0.6):
        face.box(0.3, floor - 0.9, length - 0.3, floor - 0.3, dice.color(_SIGNBOARDS, 20))
        for number in range(int((length - 0.6) / 2.6)):
            face.box(0.4 + number * 2.6, 0.5, 2.7 + number * 2.6, floor - 0.95, dice.vary(_GLASS, 22))
    else:
        for number in range(int(length / pitch)):
            middle = (number + 0.5) * pitch
            face.box(middle - half * pitch, 1.1, middle + half * pitch, floor - 0.7, dice.vary(_GLASS, 20))
        face.box(length * 0.4, 0.0, length * 0.4 + 1.2, 2.2, dice.vary((92, 62, 44), 25))
    face.box(0.0, roof, length, height, dice.color(_ROOFS, 18))


def draw_wall(face: Face, dice: Dice) -> None:
    """A bare wall of stone, brick or concrete blocks with a coping; sometimes graffiti."""
    u, v = face.uv
    length, height = face.length, face.height
    course = dice.choice((0.35, 0.5, 0.7))
    level = v * np.float32(1 / course)
    row = np.floor(level)
    along = u * np.float32(0.45 / course) + row * np.float32(0.5) % 1  # each row is shifted by half a block
    shades = np.array([dice.uniform(0.82, 1.15) for _ in range(8)], np.float32)
    block = shades[(np.floor(along) * 5 + row * 3).astype(np.int32) & 7]
    relief = np.where((level - row < 0.2) | (along % 1 < 0.1), np.float32(0.72), block)
    relief += face.texture(face.canvas.clouds, 0.15) + face.texture(face.canvas.grain, 0.1)
    face.paint((v >= 0) & (v < height), dice.color(_STONES, 20), relief)
    if dice.chance(0.3):
        paint, start = dice.color(_SIGNBOARDS, 25), length * dice.uniform(0.2, 0.6)
        for _ in range(5):
            begin = start + dice.uniform(0.0, 2.0), height * dice.uniform(0.2, 0.8)
            face.bar(begin, (begin[0] + dice.uniform(0.3, 0.9), height * dice.uniform(0.2, 0.8)), 0.14, paint)
    face.box(0.0, height - 0.18, length, height, dice.vary(dice.choice((_WHITE, (130, 126, 120))), 20))


def draw_fence(face: Face, dice: Dice) -> None:
    """A see-through fence of bars or boards between rails and posts."""
    u, v = face.uv
    paint = dice.color(_RAILINGS, 20)
    face.box(0.0, 0.0, face.length, face.height, None)
    bar = u * np.float32(1 / dice.uniform(0.5, 0.8))
    upright = (bar % 1 < dice.uniform(0.4, 0.6)) & (v < face.height - 0.08)
    upright |= bar * np.float32(1 / 6) % 1 < 0.07
    for rail in (0.2, face.height - 0.25):
        upright |= np.abs(v - np.float32(rail)) < 0.08
    face.paint(upright & (v > 0) & (v < face.height), paint)


def draw_hedge(face: Face, dice: Dice) -> None:
    """A hedge or a row of bushes with a ragged top, up to the height of the face."""
    _, v = face.uv
    ragged = face.texture(face.canvas.clumps, 0.12) + face.texture(face.canvas.clouds, 0.18) + np.float32(0.7)
    up = v * np.float32(1 / face.height)
    _draw_leaves(face, dice, (up < ragged) & (v >= 0), up)


def draw_tree(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """A tree with trunk and crown."""
    trunk, radius = dice.uniform(2.0, 3.2), dice.uniform(1.3, 2.2)
    middle = 1.9 * radius
    face = canvas.front(x - middle, z, 2 * middle, trunk + 3 * radius, Label.VEGETATION)
    top = middle + dice.uniform(-0.2, 0.2), trunk + radius
    face.bar((middle, 0.0), top, dice.uniform(0.25, 0.45), dice.color(_BARK, 15))
    blobs = [(0.0, 1.0, 1.0)]  # of the crown: u, v and radius, relative to its radius
    blobs += [(dice.uniform(-0.8, 0.8), dice.uniform(0.5, 1.8), dice.uniform(0.45, 0.75)) for _ in range(5)]
    u, v = face.uv
    coarse_u, coarse_v = u[:, ::2] - np.float32(middle), v[::2, ::2] - np.float32(trunk)  # half resolution suffices
    inside = np.full(coarse_v.shape, 9.0, np.float32)
    for blob_u, blob_v, size in blobs:
        scale = np.float32(1 / (size * radius))
        du, dv = (coarse_u - np.float32(blob_u * radius)) * scale, (coarse_v - np.float32(blob_v * radius)) * scale
        inside = np.minimum(inside, du * du + dv * dv)
    inside = inside.repeat(2, axis=0).repeat(2, axis=1)[: v.shape[0], : v.shape[1]]
    ragged = face.texture(canvas.clumps, 0.3) + face.texture(canvas.grain, 0.04)
    _draw_leaves(face, dice, inside + ragged < 1, (v - np.float32(trunk)) * np.float32(0.5 / radius))


def _draw_leaves(face: Face, dice: Dice, mask: Bools, up: Floats) -> None:
    """Foliage, brighter towards `up` = 1."""
    relief = up * np.float32(0.5) + np.float32(0.55)
    relief += face.texture(face.canvas.clumps, 0.4) + face.texture(face.canvas.grain, 0.25)
    face.paint(mask, dice.color(_LEAVES, 16), relief)
