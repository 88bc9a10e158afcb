"""Episodes stored as a folder of images, one file per frame, in natural order (frame_2.jpg before frame_10.jpg).

Missing numbers in the file names are gaps in the times. The frame rate comes from `meta.json` beside the images,
``{"fps": 10}``, or from the caller.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from dila.data import room
from dila.data.reading import opened_picture, read_json, stamp, upright, upright_size
from dila.data.video import SUFFIXES as VIDEO_SUFFIXES
from dila.errors import DilaError, check_inside
from dila.files import hash_file
from dila.shapes import Tensor, UInt8

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True, eq=False)
class FrameEpisode:
    """One folder of images as a `dila.protocols.Episode`."""

    id: str
    path: Path
    names: tuple[str, ...]
    """File names in natural order."""
    size: tuple[int, int]
    """Rows and columns of the first image; all must have it."""
    times: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def read(self, frames: Sequence[int]) -> UInt8[Tensor, "N 3 Y X"]:
        """Read the images with these indices, RGB; raises `DilaError` if one is unreadable or has another size."""
        wanted = check_inside(str(self.path), frames, len(self.names))
        out = room.make((len(wanted), *self.size, 3))
        for row, frame in enumerate(wanted):
            out[row] = _read_image(self.path / self.names[frame], self.size)
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def fingerprint(self) -> str:
        """Hash all names and sizes, and the first, middle and last image."""
        digest = hashlib.blake2b(digest_size=12)
        for name in self.names:
            digest.update(f"{name} {stamp(self.path / name)[2]}\n".encode())
        for name in (self.names[0], self.names[len(self.names) // 2], self.names[-1]):
            digest.update(hash_file(self.path / name).encode())
        return digest.hexdigest()


def claims(path: Path) -> bool:
    """Whether the path is a folder of images with no video and no folder beside them."""
    if not path.is_dir():
        return False
    suffixes = set()
    for child in path.iterdir():
        if not child.name.startswith("."):
            suffixes.add("/" if child.is_dir() else child.suffix.lower())
    return bool(suffixes & SUFFIXES) and "/" not in suffixes and not suffixes & VIDEO_SUFFIXES


def episodes(path: Path, name: str, fps: int | float | None, usual: float = 10.0) -> Iterator[FrameEpisode]:
    """Yield the one episode of a folder of images, at `fps` if given, else the rate in `meta.json`, else `usual`.

    Raises:
        DilaError: the first image is unreadable or too large, or the frame rate in `meta.json` is not above 0.
    """
    names = [p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    names.sort(key=natural_order)
    with opened_picture(path / names[0], str(path / names[0])) as image:
        size = upright_size(image)
    rate = fps or _stored_fps(path / "meta.json") or usual
    yield FrameEpisode(name, path, tuple(names), size, _places(names) / rate)


def _places(names: Sequence[str]) -> np.ndarray:
    """Return the index that each frame would have if no frame were missing, int64.

    This requires that all names are the same text and a number, and that all steps between numbers are multiples of
    the median step (names that count every second frame have no gap); otherwise the frames are counted.
    """
    told = [re.fullmatch(r"(.*?)(\d{1,18})\.\w+", name, re.ASCII) for name in names]
    if len(names) < 3 or len({match and match[1] for match in told}) > 1 or None in told:
        return np.arange(len(names))
    numbers = np.array([int(match[2]) for match in told if match])
    steps = np.diff(numbers)
    usual = int(np.median(steps))
    if usual < 1 or (steps % usual).any() or not steps.all():
        return np.arange(len(names))
    return (numbers - numbers[0]) // usual


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that compares numbers inside names by value."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _stored_fps(path: Path) -> float | None:
    if not path.is_file():
        return None
    meta = read_json(path)
    try:
        rate = float(meta["fps"]) if meta.get("fps") is not None else None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DilaError(f'{path} must be JSON such as {{"fps": 10}}: {error}') from error
    if rate is not None and not 0 < rate < float("inf"):
        raise DilaError(f"{path} has fps = {rate}; it must be above 0")
    return rate


def _read_image(path: Path, size: tuple[int, int]) -> np.ndarray:
    """RGB ``Y X 3``."""
    with opened_picture(path, str(path)) as image:
        height, width = upright_size(image)
        if (height, width) != size:
            raise DilaError(f"{path} is {width} x {height}, but the first image of its folder is {size[1]} x {size[0]}")
        return upright(image)
