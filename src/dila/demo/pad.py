"""The pad: a picture to click on, whose place is the amounts along the first two directions of z."""

from typing import Any

from dila.demo.compass import REACH, Compass

SIZE = 300
_PAPER, _LINE, _DOT, _INK = (247, 248, 250), (205, 211, 220), (45, 110, 220), (29, 36, 48)


def draw_pad(compass: Compass) -> Any:
    """Axes, a ring at one standard deviation, and a named dot for each action found; a PIL picture."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (SIZE, SIZE), _PAPER)
    draw, font, middle = ImageDraw.Draw(picture), ImageFont.load_default(11), SIZE / 2
    draw.line([(middle, 8), (middle, SIZE - 8)], fill=_LINE)
    draw.line([(8, middle), (SIZE - 8, middle)], fill=_LINE)
    ring = middle / REACH
    draw.ellipse([middle - ring, middle - ring, middle + ring, middle + ring], outline=_LINE)
    for name, z in compass.actions.items():
        x, y = place(compass.read(z)[:2].tolist())
        draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=_DOT)
        width = draw.textlength(name, font=font)
        draw.text((min(max(x - width / 2, 2), SIZE - width - 2), y + 6 if y < SIZE - 22 else y - 20), name, _INK, font)
    return picture


def amounts(x: int | float, y: int | float) -> tuple[float, float]:
    """What a click at this pixel asks for, in standard deviations; outside the pad counts as at its edge."""
    right, down = (min(max((pixel / SIZE * 2 - 1) * REACH, -REACH), REACH) for pixel in (x, y))
    return right, down


def place(reach: list[float]) -> tuple[float, float]:
    """The pixel of these amounts: what `amounts` undoes."""
    x, y = (min(max((amount / REACH + 1) / 2 * SIZE, 6.0), SIZE - 6.0) for amount in reach)
    return x, y
