"""Street furniture: lamps, traffic lights, traffic signs, boxes."""

from __future__ import annotations

from hrseg.data.datasets.street_scenes.canvas import Canvas, Color, Dice, Face, Label

_METALS: tuple[Color, ...] = ((120, 124, 126), (70, 74, 76), (150, 148, 140), (60, 76, 66), (96, 84, 74))
_HOUSINGS: tuple[Color, ...] = ((28, 30, 32), (52, 60, 52), (176, 140, 40))
_BOARDS: tuple[Color, ...] = ((220, 180, 50), (40, 80, 160), (232, 232, 226), (50, 120, 80))
_BOXES: tuple[Color, ...] = ((60, 70, 66), (200, 160, 50), (110, 112, 110), (150, 70, 40))
_LAMPS: tuple[Color, ...] = ((70, 255, 170), (255, 190, 60), (255, 70, 50))  # from below
_RED: Color = (195, 35, 40)
_BLUE: Color = (40, 85, 170)
_YELLOW: Color = (225, 180, 50)
_WHITE: Color = (232, 232, 226)
_DARK: Color = (28, 30, 32)


def draw_lamp(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """A street lamp over the road, or a bare pole."""
    metal, height, inwards = dice.color(_METALS, 20), dice.uniform(4.5, 8.0), -1.0 if x > 0 else 1.0
    face = canvas.front(x, z, 1.0, height, Label.POLE)
    _draw_pole(face, height, dice.uniform(0.3, 0.4), metal)
    if dice.chance(0.6):
        face.bar((0.0, height - 0.1), (inwards * 1.4, height + 0.1), 0.26, metal)
        face.box(inwards * 1.2 - 0.3, height - 0.1, inwards * 1.2 + 0.3, height + 0.16, _DARK)


def draw_traffic_light(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """A traffic light on its pole."""
    base = dice.uniform(2.0, 2.8)
    pole = canvas.front(x, z, 1.0, base, Label.POLE)
    _draw_pole(pole, base + dice.choice((0.2, 1.8)), 0.26, dice.color(_METALS, 20))
    face = canvas.front(x, z, 1.0, base + 1.6, Label.TRAFFIC_LIGHT)
    if dice.chance(0.3):
        face.box(-0.46, base - 0.12, 0.46, base + 1.67, dice.vary(_WHITE, 12))
    face.box(-0.34, base, 0.34, base + 1.55, dice.color(_HOUSINGS, 10))
    lit = dice.choice((0, 0, 1, 2, 2))
    for number, (red, green, blue) in enumerate(_LAMPS):
        color = (red, green, blue) if number == lit else (red // 4, green // 4, blue // 4)
        face.disc(0.0, base + 0.3 + 0.47 * number, 0.2, color)


def draw_traffic_sign(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """One or two traffic signs, or a direction board, on a pole."""
    middle = dice.uniform(2.0, 2.6)
    _draw_pole(canvas.front(x, z, 1.0, middle, Label.POLE), middle + 0.4, 0.24, dice.color(_METALS, 20))
    face = canvas.front(x, z, 1.0, middle + 1.0, Label.TRAFFIC_SIGN)
    if dice.chance(0.25):
        _draw_board(face, dice, middle)
        return
    _draw_sign(face, dice, middle)
    if dice.chance(0.3):
        _draw_sign(face, dice, middle + 1.15)


def draw_box(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """A litter bin, letter box or switch box; "static" in Cityscapes."""
    half, height = dice.uniform(0.25, 0.45), dice.uniform(0.9, 1.3)
    face = canvas.front(x, z, 1.0, height, Label.STATIC)
    face.box(-half, 0.0, half, height, dice.color(_BOXES, 20))
    face.box(-half, height - 0.2, half, height - 0.12, _DARK)


def _draw_pole(face: Face, height: float, width: float, metal: Color) -> None:
    red, green, blue = metal
    face.box(-width / 2, 0.0, width / 2, height, metal)
    face.box(-width * 0.4, 0.0, -width * 0.1, height, (min(red + 45, 255), min(green + 45, 255), min(blue + 45, 255)))
    face.box(-width * 0.7, 0.0, width * 0.7, 0.5, metal)


def _draw_board(face: Face, dice: Dice, v: float) -> None:
    board = dice.color(_BOARDS, 15)
    ink = _DARK if board[0] > 120 else _WHITE
    face.box(-1.2, v - 0.5, 1.2, v + 0.7, ink)
    face.box(-1.14, v - 0.44, 1.14, v + 0.64, board)
    for line in (-0.3, 0.05, 0.35):
        face.box(-0.9, v + line, -0.9 + dice.uniform(0.9, 1.8), v + line + 0.1, ink)


def _draw_sign(face: Face, dice: Dice, v: float) -> None:
    """One of six kinds of signs, centred at v."""
    r, red, blue = dice.uniform(0.5, 0.62), dice.vary(_RED, 20), dice.vary(_BLUE, 20)
    match dice.integer(0, 5):
        case 0:  # warning
            face.polygon([(-r * 1.1, v - r * 0.8), (r * 1.1, v - r * 0.8), (0.0, v + r * 1.1)], red)
            face.polygon([(-r * 0.7, v - r * 0.58), (r * 0.7, v - r * 0.58), (0.0, v + r * 0.66)], _WHITE)
            face.box(-0.04, v - r * 0.4, 0.04, v + r * 0.2, _DARK)
        case 1:  # speed limit, overtaking
            face.disc(0.0, v, r, red)
            face.disc(0.0, v, r * 0.7, _WHITE)
            face.box(-r * 0.35, v - r * 0.2, r * 0.35, v + r * 0.2, _DARK)
        case 2:  # no entry
            face.disc(0.0, v, r, red)
            face.box(-r * 0.7, v - r * 0.2, r * 0.7, v + r * 0.2, _WHITE)
        case 3:  # mandatory direction
            face.disc(0.0, v, r, _WHITE)
            face.disc(0.0, v, r * 0.9, blue)
            face.bar((-r * 0.4, v - r * 0.4), (r * 0.4, v + r * 0.4), 0.12, _WHITE)
        case 4:  # parking, pedestrians
            face.box(-r, v - r, r, v + r, _WHITE)
            face.box(-r * 0.88, v - r * 0.88, r * 0.88, v + r * 0.88, blue)
            face.polygon([(-r * 0.5, v - r * 0.5), (r * 0.5, v - r * 0.5), (0.0, v + r * 0.6)], _WHITE)
        case _:  # priority road
            for size, color in ((r * 1.1, _WHITE), (r * 0.8, dice.vary(_YELLOW, 20))):
                face.polygon([(-size, v), (0.0, v - size), (size, v), (0.0, v + size)], color)
