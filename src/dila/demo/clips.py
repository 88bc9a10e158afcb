"""The clips that visitors may use: those offered by the server, and uploads within limits."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dila.data import open_corpus, probe_video
from dila.errors import DilaError
from dila.imagine.windows import sample
from dila.imagine.world import World
from dila.shapes import Tensor, UInt8

SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".gif")
MEGABYTES = 20
SECONDS = 60
SIDE = 1920
"""Maximum pixels of an upload's longer side."""

FRAMES = 32
"""Maximum number of frames read from a clip, at the model's stride."""

PART = 8
"""Number of full-size frames decoded at once."""


class Shelf(NamedTuple):
    """The offered clips by name. Visitors choose names; the server opens none of their paths except uploads."""

    paths: Mapping[str, Path]

    @property
    def names(self) -> list[str]:
        """Names in the order in which they are offered."""
        return list(self.paths)

    def choose(self, name: str | None, upload: str | None) -> Path:
        """Return the upload if there is one, else the clip of that name.

        Raises:
            DilaError: the upload is refused, or there is no such clip.
        """
        if upload:
            return accept(upload)
        if name is None or name not in self.paths:
            raise DilaError(f"there is no clip {name!r} here; choose one of {', '.join(self.names)} or upload one")
        return self.paths[name]


def shelve(clips: Sequence[str | Path]) -> Shelf:
    """Offer these videos, and all videos in these folders.

    Raises:
        DilaError: a path does not exist, or there is no video.
    """
    found: dict[str, Path] = {}
    for clip in map(Path, clips):
        if not clip.exists():
            raise DilaError(f"clips: {clip} does not exist; check the path")
        files = sorted(clip.rglob("*")) if clip.is_dir() else [clip]
        for path in files:
            if path.suffix.lower() in SUFFIXES:
                found[_free(path.stem, found)] = path
    if not found:
        raise DilaError(
            f"clips: there is no video ({', '.join(SUFFIXES)}) in {', '.join(map(str, clips)) or 'the empty list'}"
        )
    return Shelf(found)


def accept(upload: str | Path) -> Path:
    """Check an uploaded file against the limits and return its path.

    Raises:
        DilaError: its kind, size, length or resolution is not allowed, or it is not a video; the limit is named.
    """
    path = Path(upload)
    if path.suffix.lower() not in SUFFIXES:
        raise DilaError(f"{path.name} is not a supported video; upload one of {', '.join(SUFFIXES)}")
    if (size := path.stat().st_size / 2**20) > MEGABYTES:
        raise DilaError(f"{path.name} has {size:.0f} MB, but at most {MEGABYTES} are allowed; shorten or compress it")
    try:
        info = probe_video(path)
    except DilaError as error:
        raise DilaError(f"{path.name} cannot be read as a video; upload another") from error
    if max(info.size) > SIDE:
        raise DilaError(
            f"{path.name} is {info.size[1]} x {info.size[0]}, but at most {SIDE} pixels a side are allowed; resize it"
        )
    if (length := float(info.times[-1]) if len(info) else 0.0) > SECONDS:
        raise DilaError(f"{path.name} lasts {length:.0f} s, but at most {SECONDS} s are allowed; shorten it")
    return path


def read_frames(world: World, path: Path, start: int | float = 0, frames: int = FRAMES) -> UInt8[Tensor, "T 3 Y X"]:
    """Read frames at the model's stride, from ``start`` seconds on, at the size that `World.pictures` returns.

    Raises:
        DilaError: there are fewer than two frames, or the video cannot be read at that stride.
    """
    episode = open_corpus(path).episodes[0]
    run = sample(episode, world.stride)[0]
    first = min(round(start / world.stride), _last(run))
    index = run[first : first + frames]
    if len(index) < 2:
        raise DilaError(f"{path.name} has fewer than two frames {world.stride:g} s apart; give a longer one")
    return torch.cat([world.pictures(episode.read(index[i : i + PART].tolist())) for i in range(0, len(index), PART)])


def last_start(world: World, path: Path) -> float:
    """Return the latest start in seconds for `read_frames`, which leaves two frames.

    Raises:
        DilaError: the video cannot be read at the model's stride.
    """
    return round(_last(sample(open_corpus(path).episodes[0], world.stride)[0]) * world.stride, 3)


def _last(run: np.ndarray) -> int:
    return max(0, len(run) - 2)


def _free(name: str, taken: Mapping[str, Path]) -> str:
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], numbered) if free not in taken)
