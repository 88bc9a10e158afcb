"""Pictures of predictions: contact sheets, clips side by side, and maps of features or structure in colour."""

import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dila.data import write_video
from dila.data.clips import resized
from dila.errors import DilaError
from dila.files import at_home, replacing
from dila.shapes import Float, Tensor, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

Rows = Mapping[str, UInt8[Tensor, "_ 3 _ _"]]
"""Clips by label, aligned at their ends: a clip of predicted frames, shorter by its context, starts later."""

GAP = 2
"""Pixels between pictures."""

PAPER = 255
"""Grey level of the background."""

TAIL = 0.01
"""Share of a principal component's values, at either end, that is drawn in its darkest or brightest colour."""

SLIMMEST = 8
"""Maximum aspect ratio of a picture, so that a label above it is readable."""

_LINE_HEIGHT = 14
_FONT = "DejaVuSans.ttf"
_INK = (20, 20, 20)


class Colours(NamedTuple):
    """The first three principal components of a map's channels, drawn as red, green and blue."""

    mean: Float[Tensor, " D"]
    axes: Float[Tensor, "D 3"]
    low: Float[Tensor, "3"]
    high: Float[Tensor, "3"]


def contact_sheet(rows: Rows, columns: int = 8) -> "Image":
    """Draw clips below one another, each under its label, at up to ``columns`` moments spread over time.

    Pictures are enlarged to the largest one without distortion. Moments before a clip's start are blank.

    Raises:
        DilaError: there is no clip, or an empty one.
    """
    clips = _aligned(rows)
    length = len(next(iter(clips.values())))
    moments = np.unique(np.linspace(0, length - 1, min(columns, length)).round().astype(int))
    sheet = np.concatenate([_strip(label, clip[moments]) for label, clip in clips.items()])
    return _image(sheet)


def write_sheet(path: str | Path, rows: Rows, columns: int = 8) -> None:
    """Write a contact sheet as .png, atomically.

    Raises:
        DilaError: as `contact_sheet`, for another suffix, or if the file cannot be written.
    """
    path = at_home(path)
    if path.suffix.lower() != ".png":
        raise DilaError(f"{path} must end in .png: contact sheets are written as PNG")
    sheet = contact_sheet(rows, columns)
    with replacing(path) as partial:
        sheet.save(partial, format="PNG")


def side_by_side(rows: Rows) -> UInt8[Tensor, "T 3 Y X"]:
    """Return one clip with all clips from left to right, each under its label. Raises DilaError as `contact_sheet`."""
    clips = _aligned(rows)
    moments = range(len(next(iter(clips.values()))))
    width = next(iter(clips.values())).shape[2] + 2 * GAP
    written = [_written(label, width) for label in clips]
    height = max(map(len, written))
    papered = [np.pad(head, ((0, height - len(head)), (0, 0), (0, 0)), constant_values=PAPER) for head in written]
    heads = np.concatenate(papered, axis=1)
    pictures = [
        np.concatenate([heads, np.concatenate([_bordered(clip[moment]) for clip in clips.values()], axis=1)])
        for moment in moments
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def write_clip(path: str | Path, rows: Rows, fps: int | float) -> None:
    """Write clips side by side as .mp4 or .gif. Raises DilaError as `contact_sheet` and `dila.data.write_video`."""
    write_video(path, side_by_side(rows), fps)


def scaled(
    frames: UInt8[Tensor, "*batch 3 _ _"], side: int, like: Sequence[int] | None = None
) -> UInt8[Tensor, "*batch 3 Y X"]:
    """Resize frames to ``side`` pixels on the longer side, in their own aspect ratio or of ``like`` (rows, columns).

    Encoders see all video as squares, so drawn frames are square; ``like`` restores the video's aspect ratio.
    """
    rows, columns = frames.shape[-2:] if like is None else like
    longer = max(rows, columns)
    least = max(1, side // SLIMMEST)
    return resized(frames, [max(least, round(length * side / longer)) for length in (rows, columns)])


def fitted(clip: UInt8[Tensor, "T 3 _ _"], size: Sequence[int]) -> UInt8[Tensor, "T 3 Y X"]:
    """Resize a clip to the largest size that fits ``size`` (rows, columns), and pad it at the right and bottom."""
    share = min(size[0] / clip.shape[2], size[1] / clip.shape[3])
    rows, columns = (max(1, round(side * share)) for side in clip.shape[-2:])
    page = torch.full((len(clip), 3, *size), PAPER, dtype=torch.uint8)
    page[:, :, :rows, :columns] = resized(clip, (rows, columns))
    return page


def fit_colours(maps: Float[Tensor, "*batch H W D"]) -> Colours:
    """Fit colours once over all frames, so that a channel has the same colour at all times.

    The largest weight of each component is made positive, so that fits to similar data look alike.
    """
    x = maps.detach().flatten(0, -2).double().cpu()
    mean = x.mean(0)
    _, vectors = torch.linalg.eigh((x - mean).T @ (x - mean))
    axes = vectors.flip(1)[:, :3]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    axes = F.pad(axes, (0, 3 - axes.shape[1]))  # with fewer than three channels, the remaining colours are constant
    values = ((x - mean) @ axes).numpy()
    low, high = np.quantile(values, [TAIL, 1 - TAIL], axis=0)
    return Colours(mean.float(), axes.float(), torch.from_numpy(low).float(), torch.from_numpy(high).float())


def paint(
    colours: Colours, maps: Float[Tensor, "*batch H W D"], size: tuple[int, int] | None = None
) -> UInt8[Tensor, "*batch 3 Y X"]:
    """Draw maps as RGB, enlarged to ``size`` (rows, columns) by repeating cells; None keeps the size of the grid."""
    values = (maps.detach().float().cpu() - colours.mean) @ colours.axes
    share = (values - colours.low) / (colours.high - colours.low).clamp_min(1e-8)
    pictures = (share.clamp(0, 1) * 255).round().byte().movedim(-1, -3)
    if size is None:
        return pictures
    flat = F.interpolate(pictures.reshape(-1, *pictures.shape[-3:]), size, mode="nearest-exact")
    return flat.reshape(*pictures.shape[:-2], *size)


def _aligned(rows: Rows) -> dict[str, np.ndarray]:
    """Convert clips to ``T Y X 3`` of one size, padded, with blank frames before the shorter ones."""
    if not rows or any(len(clip) == 0 for clip in rows.values()):
        raise DilaError("there are no frames to show; give at least one clip, and no empty ones")
    length = max(len(clip) for clip in rows.values())
    size = (max(clip.shape[2] for clip in rows.values()), max(clip.shape[3] for clip in rows.values()))
    aligned = {}
    for label, clip in rows.items():
        blank = torch.full((length - len(clip), 3, *size), PAPER, dtype=torch.uint8)
        aligned[label] = torch.cat([blank, fitted(clip.cpu(), size)]).permute(0, 2, 3, 1).numpy()
    return aligned


def _strip(label: str, pictures: np.ndarray) -> np.ndarray:
    row = np.concatenate([_bordered(picture) for picture in pictures], axis=1)
    return np.concatenate([_written(label, row.shape[1]), row])


def _bordered(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=PAPER)


def _written(label: str, width: int) -> np.ndarray:
    from PIL import ImageDraw

    words, font = _spelt(label)
    lines = _wrapped(words, font, width - 2 * GAP)
    head = _image(np.full((_LINE_HEIGHT * len(lines) + 2 * GAP, width, 3), PAPER, dtype=np.uint8))
    for at, line in enumerate(lines):
        ImageDraw.Draw(head).text((GAP, GAP + at * _LINE_HEIGHT), line, fill=_INK, font=font)
    return np.asarray(head)


def _wrapped(label: str, font: Any, width: int) -> list[str]:
    """Split the label into lines that fit, at spaces, or within a word that is longer than a line."""
    lines = [""]
    for word in label.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if not lines[-1] or font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
        while len(lines[-1]) > 1 and font.getlength(lines[-1]) > width:
            line = lines.pop()
            fits = max((n for n in range(1, len(line)) if font.getlength(line[:n]) <= width), default=1)
            lines += [line[:fits], line[fits:]]
    return lines


def _spelt(label: str) -> tuple[str, Any]:
    """Return the label, with letters that no font here has escaped (their boxes would look alike), and a font for it.

    Pillow's own font has only ASCII; DejaVu, if installed, most alphabets but no Chinese or Japanese.
    """
    from PIL import ImageFont

    label, font = unicodedata.normalize("NFC", label), ImageFont.load_default(12)
    if not label.isascii():
        with suppress(OSError):
            font = ImageFont.truetype(_FONT, 12)
    mask: Any = font.getmask
    missing = {bytes(mask(none)) for none in ("\uffff", " ")}
    known = {letter: letter.isascii() or bytes(mask(letter)) not in missing for letter in label}
    return "".join(x if known[x] else x.encode("unicode_escape").decode() for x in label), font


def _image(pixels: np.ndarray) -> "Image":
    from PIL import Image

    return Image.fromarray(pixels)
