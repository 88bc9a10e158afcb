"""Contact sheet of a corpus: evenly spaced frames of evenly spaced episodes."""

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
    """Contents of a contact sheet."""

    path: Path
    episodes: tuple[str, ...]
    skipped: dict[str, str]
    """Episodes that could not be read, with the reason."""


def draw_corpus(
    path: str | Path,
    out: str | Path,
    episodes: int = 8,
    moments: int = 8,
    size: int = 128,
    fps: int | float | None = None,
    camera: str | None = None,
) -> Shown:
    """Write a contact sheet with one row per episode, headed by its id and the timestamps of its frames.

    Args:
        path: anything that `dila.data.open_corpus` accepts.
        out: the .png file to write.
        episodes: maximum number of rows, spread evenly over the corpus, including the first and last episode.
        moments: maximum number of frames per row, including the first and last frame.
        size: longer side of a frame in pixels; the aspect ratio is kept.
        fps: frame rate, overriding that of the files.
        camera: camera to show if there are several.

    Raises:
        DilaError: nothing is readable, there is no such camera, an argument is below 1, or the suffix is not .png.
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
        raise DilaError(f"none of the chosen episodes of {path} can be read: {next(iter(skipped.values()))}")
    write_sheet(out, _alike(rows), moments)
    return Shown(Path(out), tuple(ids), skipped)


def _headed(episode: Episode, index: np.ndarray) -> str:
    count = len(episode.times)
    times = "  ".join(f"{t:.3g}" for t in np.asarray(episode.times)[index])
    return f"{episode.id}   {count} frame{'s' * (count > 1)}, at {times} s"


def _alike(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pad all clips to the same length with blank frames."""
    length = max(map(len, rows.values()))
    return {label: F.pad(clip, (0, 0) * 3 + (0, length - len(clip)), value=PAPER) for label, clip in rows.items()}
