"""A corpus on one page: a contact sheet of episodes that lie evenly over it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from dila.data import open_corpus
from dila.errors import DilaError
from dila.imagine.pictures import write_sheet
from dila.protocols import Episode
from dila.shapes import Tensor, UInt8

PAPER = 255


class Shown(NamedTuple):
    """What is on a sheet."""

    path: Path
    episodes: tuple[str, ...]
    skipped: dict[str, str]
    """Episodes that were to be on it and cannot be read, with the reason."""


def draw_corpus(
    path: str | Path,
    out: str | Path,
    episodes: int = 8,
    moments: int = 8,
    size: int = 128,
    fps: int | float | None = None,
    camera: str | None = None,
) -> Shown:
    """Write a contact sheet: a row an episode with its id and the times of its pictures above.

    Args:
        path: as `dila.data.open_corpus` takes it.
        out: the .png to write.
        episodes: rows at most; evenly spread over the corpus, first and last among them.
        moments: pictures of each at most, first and last frame among them.
        size: pixels of a picture's longer side; the aspect is kept.
        fps: frames a second, instead of what the files say.
        camera: of episodes that several cameras saw, this one alone.

    Raises:
        DilaError: nothing readable, no such camera, an argument below 1, or a suffix other than .png.
    """
    if min(episodes, moments, size) < 1:
        raise DilaError(f"episodes = {episodes}, moments = {moments} and size = {size} must all be at least 1")
    corpus = open_corpus(path, fps, camera)
    rows: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    ids = []
    for place in np.unique(np.linspace(0, len(corpus) - 1, min(episodes, len(corpus))).round().astype(int)):
        episode = corpus.episodes[int(place)]
        index = np.unique(np.linspace(0, len(episode.times) - 1, moments).round().astype(int))
        try:
            rows[_headed(episode, index)] = _fitted(episode.read(index.tolist()), size)
            ids.append(episode.id)
        except DilaError as error:
            skipped[episode.id] = str(error)
    if not rows:
        raise DilaError(f"{path} has nothing to show: {next(iter(skipped.values()))}")
    write_sheet(out, _alike(rows), moments)
    return Shown(Path(out), tuple(ids), skipped)


def _headed(episode: Episode, index: np.ndarray) -> str:
    times = "  ".join(f"{t:.3g}" for t in np.asarray(episode.times)[index])
    return f"{episode.id}   {len(episode.times)} frames, at {times} s"


def _fitted(frames: UInt8[Tensor, "N 3 Y X"], size: int) -> UInt8[Tensor, "N 3 _ _"]:
    share = size / max(frames.shape[-2:])
    rows, columns = (max(1, round(side * share)) for side in frames.shape[-2:])
    return F.interpolate(frames, (rows, columns), mode="bilinear", antialias=True)


def _alike(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """All clips of one size and length, with paper around: short ones end early, none is stretched."""
    size = [max(clip.shape[side] for clip in rows.values()) for side in (-2, -1)]
    length = max(map(len, rows.values()))
    alike = {}
    for label, clip in rows.items():
        page = torch.full((length, 3, *size), PAPER, dtype=torch.uint8)
        page[: len(clip), :, : clip.shape[-2], : clip.shape[-1]] = clip
        alike[label] = page
    return alike
