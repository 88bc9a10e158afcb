"""The pad: a picture to click on, and keys; both give the amounts along the first two directions of z."""

from collections.abc import Sequence
from typing import Any

from dila.demo.compass import REACH, Compass

SIZE = 300
DOT, HEIGHT = 5, 14
"""Radius of a dot, and height of a label, in pixels."""
_PAPER, _LINE, _DOT, _INK = (247, 248, 250), (205, 211, 220), (45, 110, 220), (29, 36, 48)


Number = int | float
Box = tuple[Number, Number, Number, Number]
"""Left, top, right, bottom."""

ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}
"""The keys that drive, each the id of a hidden button, and their amounts right and down, in standard deviations."""
KEYS = """<script>
document.addEventListener("keydown", event => {
    const button = document.querySelector(`.keys[id="${event.key}"]`);
    const playing = document.getElementById("pad")?.offsetParent;
    if (!button || !playing || event.target.closest("input, textarea, [role=tab], [role=listbox]")) return;
    event.preventDefault();
    button.click();
});
</script>"""
"""For the head of the page. A held key clicks often; gradio ignores clicks on a button whose last one is unanswered."""


def draw_pad(compass: Compass) -> Any:
    """Draw axes, a ring at one standard deviation, and a labelled dot for each named action, as a PIL image."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (SIZE, SIZE), _PAPER)
    draw, font, middle = ImageDraw.Draw(picture), ImageFont.load_default(11), SIZE / 2
    draw.line([(middle, 8), (middle, SIZE - 8)], fill=_LINE)
    draw.line([(8, middle), (SIZE - 8, middle)], fill=_LINE)
    ring = middle / REACH
    draw.ellipse([middle - ring, middle - ring, middle + ring, middle + ring], outline=_LINE)
    dots = {name: place(compass.read(z)[:2].tolist()) for name, z in compass.actions.items()}
    for x, y in dots.values():
        draw.ellipse([x - DOT, y - DOT, x + DOT, y + DOT], fill=_DOT)
    boxes = spaced(list(dots.values()), [draw.textlength(name, font=font) for name in dots])
    for name, (left, top, _, _) in zip(dots, boxes, strict=True):
        draw.text((left, top), name, _INK, font)
    return picture


def spaced(dots: Sequence[tuple[Number, Number]], widths: Sequence[Number]) -> list[Box]:
    """Place labels, each as near to its dot as possible without covering a dot or an earlier label.

    Args:
        dots: positions of the dots in pixels.
        widths: widths of the labels in pixels.
    """
    taken: list[Box] = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in dots]
    for (x, y), width in zip(dots, widths, strict=True):
        tried = [_within(x + right, y + down, width) for right, down in _around(width)]
        taken.append(min(tried, key=lambda box: sum(_shared(box, other) for other in taken)))
    return taken[len(dots) :]


def _around(width: Number) -> list[tuple[Number, Number]]:
    """Return offsets from a dot to the top left of its label: below, above, beside, then farther away."""
    below, above, middle = DOT + 1, -DOT - HEIGHT - 1, -HEIGHT / 2
    sides = [(DOT + 3, middle), (-width - DOT - 3, middle)]
    near = [(-width / 2, below), (-width / 2, above), *sides]
    corners = [(right, down) for down in (below, above) for right in (DOT, -width - DOT)]
    far = [(-width / 2, at + step) for step in (14, 28, 42) for at in (below, above - 2 * step)]
    return near + corners + far


def _within(left: Number, top: Number, width: Number) -> Box:
    left, top = min(max(left, 2), SIZE - width - 2), min(max(top, 2), SIZE - HEIGHT - 2)
    return left, top, left + width, top + HEIGHT


def _shared(box: Box, other: Box) -> Number:
    wide, high = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
    return max(wide, 0) * max(high, 0)


def amounts(x: int | float, y: int | float) -> tuple[float, float]:
    """Return the amounts for a click at this pixel, in standard deviations; clicks outside count as at the edge."""
    right, down = (min(max((pixel / SIZE * 2 - 1) * REACH, -REACH), REACH) for pixel in (x, y))
    return right, down


def place(reach: list[float]) -> tuple[float, float]:
    """Return the pixel of these amounts: the inverse of `amounts`."""
    x, y = (min(max((amount / REACH + 1) / 2 * SIZE, 6.0), SIZE - 6.0) for amount in reach)
    return x, y
