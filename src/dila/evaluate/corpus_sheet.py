"""A corpus on one page: a contact sheet of episodes that lie evenly over it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.nn import functional as F

from dila.data import open_corpus
from dila.errors import DilaError
from dila.imagine.pictures import PAPER, scaled, write_sheet
from dila.protocols import Episode
from dila.shapes import Tensor


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
            rows[_headed(episode, index)] = scaled(episode.read(index.tolist()), size)
            ids.append(episode.id)
        except DilaError as error:
            skipped[episode.id] = str(error)
    if not rows:
        raise DilaError(f"{path} has nothing to show: {next(iter(skipped.values()))}")
    write_sheet(out, _alike(rows), moments)
    return Shown(Path(out), tuple(ids), skipped)


def _headed(episode: Episode, index: np.ndarray) -> str:
    count = len(episode.times)
    times = "  ".join(f"{t:.3g}" for t in np.asarray(episode.times)[index])
    return f"{episode.id}   {count} frame{'s' * (count > 1)}, at {times} s"


def _alike(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """All clips of one length: short ones end early."""
    length = max(map(len, rows.values()))
    return {label: F.pad(clip, (0, 0) * 3 + (0, length - len(clip)), value=PAPER) for label, clip in rows.items()}
