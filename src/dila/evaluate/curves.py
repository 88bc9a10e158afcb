"""Curves as a PNG, drawn with Pillow, which the core has."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dila.files import replacing

SIZE, MARGIN = (640, 400), 50
_COLOURS = ("#8a94a6", "#2457d6", "#1a8f4c", "#c2410c", "#7c3aed")
_INK, _PAPER, _RULE = "#1d2430", "#ffffff", "#d7dce5"


def write_curves(path: Path, curves: Mapping[str, Sequence[int | float]], line: int | float | None = None) -> None:
    """Write curves over their index from 0, each with its name at its end, from 0 up; whole or not at all.

    Args:
        path: .png.
        curves: by name; of any lengths.
        line: a height to be marked.

    Raises:
        DilaError: it cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", SIZE, _PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    top = max((max(values) for values in curves.values()), default=1.0) * 1.05 or 1.0
    length = max((len(values) for values in curves.values()), default=2)
    wide, high = SIZE[0] - 3 * MARGIN, SIZE[1] - 2 * MARGIN

    def place(i: int, value: int | float) -> tuple[float, float]:
        return MARGIN + wide * i / max(1, length - 1), MARGIN + high * (1 - value / top)

    for share in (0, 0.25, 0.5, 0.75, 1):
        pen.line([place(0, share * top), place(length - 1, share * top)], fill=_RULE)
        pen.text((6, place(0, share * top)[1] - 8), f"{share * top:.3f}", fill=_INK, font=font)
    if line is not None:
        pen.line([place(0, line), place(length - 1, line)], fill=_INK)
    taken: list[float] = []
    for number, (name, values) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [place(i, value) for i, value in enumerate(values)]
        if len(points) > 1:
            pen.line(points, fill=colour, width=3)
        right, height = points[-1][0], points[-1][1] - 8
        while any(abs(height - other) < 15 for other in taken):
            height += 15
        taken.append(height)
        pen.text((right + 8, height), name, fill=colour, font=font)
    with replacing(path) as partial:
        image.save(partial, format="PNG")
