"""Curves as a PNG, drawn with Pillow, because the core install has no matplotlib."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dila.evaluate.plots import INKS
from dila.files import replacing

SIZE, MARGIN = (640, 400), 50
"""In pixels; the picture is wider if names are long."""
_SIDES = (0, 4, 3, 5, 6)
"""Number of sides of the marker of each series; 0 is a dot."""
_INK, _PAPER, _RULE = "#1d2430", "#ffffff", "#d7dce5"


def write_curves(
    path: Path,
    curves: Mapping[str, Sequence[int | float]],
    success: int | float | None = None,
    unit: str = "in the task's units",
    axes: tuple[str, str] = ("actions executed", "distance to the goal"),
) -> None:
    """Plot values of at least 0, such as the distance to the goal, and write the plot atomically.

    Names stand at the curve ends.

    Args:
        path: the .png file to write.
        curves: values by name, from place 0 on; lengths may differ.
        success: distance below which the goal is reached, marked by a line.
        unit: unit of the values.
        axes: what the places are, and the values.

    Raises:
        DilaError: the file cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    font: Any = ImageFont.load_default(13)
    names = max(map(font.getlength, curves), default=0)
    wide, high = SIZE[0] - 3 * MARGIN, SIZE[1] - 2 * MARGIN
    image = Image.new("RGB", (max(SIZE[0], MARGIN + wide + math.ceil(names) + 16), SIZE[1]), _PAPER)
    pen = ImageDraw.Draw(image)
    heights = _ticks(max((max(values) for values in curves.values()), default=1.0) or 1.0)
    last = max(1, max((len(values) for values in curves.values()), default=2) - 1)

    def place(i: int | float, value: int | float) -> tuple[float, float]:
        return MARGIN + wide * i / last, MARGIN + high * (1 - value / heights[-1])

    for value in heights:
        pen.line([place(0, value), place(last, value)], fill=_RULE)
        pen.text((MARGIN - 6, place(0, value)[1]), f"{value:g}", fill=_INK, font=font, anchor="rm")
    for i in _ticks(last):
        if i <= last and i.is_integer():
            pen.text((place(i, 0)[0], SIZE[1] - MARGIN + 6), f"{i:g}", fill=_INK, font=font, anchor="mt")
    pen.text((MARGIN + wide / 2, SIZE[1] - 8), axes[0], fill=_INK, font=font, anchor="mb")
    pen.text((8, MARGIN - 14), f"{axes[1]}, {unit}", fill=_INK, font=font, anchor="lb")
    if success is not None:
        pen.line([place(0, success), place(last, success)], fill=_INK)
        pen.text((place(0, 0)[0] + 4, place(0, success)[1] - 2), "success", fill=_INK, font=font, anchor="lb")
    taken: list[float] = []
    for number, (name, values) in enumerate(curves.items()):
        colour, sides = INKS[number % len(INKS)], _SIDES[number % len(_SIDES)]
        points = [place(i, value) for i, value in enumerate(values)]
        if len(points) > 1:
            pen.line(points, fill=colour, width=3)
        for x, y in points:
            if sides:
                pen.regular_polygon((x, y, 6), sides, fill=colour)
            else:
                pen.ellipse([x - 5, y - 5, x + 5, y + 5], fill=colour)
        right, height = points[-1][0], points[-1][1] - 8
        while any(abs(height - other) < 15 for other in taken):
            height += 15
        taken.append(height)
        pen.text((right + 10, height), name, fill=colour, font=font)
    with replacing(path) as partial:
        image.save(partial, format="PNG")


def _ticks(top: int | float) -> list[float]:
    """Return about five round numbers from 0 to ``top`` or just above it."""
    rough = top / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    return [float(step * i) for i in range(math.ceil(top / step - 1e-9) + 1)]
