"""Any corpus that `open_corpus` reads, written as a LeRobot data set (see `dila.data.lerobot_write`).

A LeRobot data set has one frame rate, one size of picture and the same columns everywhere. What does not fit is left
out and listed with the reason; nothing is resampled, for the rows of ``action`` would no longer move one frame to the
next.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F

from dila.data.corpus import Corpus, Skipped, open_corpus
from dila.data.lerobot_write import is_staged, publish, sources, stage_episode
from dila.data.recording import begin, run_jobs
from dila.data.remote import is_remote
from dila.errors import DilaError
from dila.protocols import Episode
from dila.shapes import Tensor

CHUNK_BYTES = 2**27
"""Of frames read at once."""
NTSC = 1.001
SLACK = 5e-4
"""By which a measured rate may differ from a whole number (or one over 1.001), relative."""


class Converted(NamedTuple):
    """What a conversion left."""

    out: Path
    episodes: int
    skipped: tuple[Skipped, ...]
    """Episodes that are not in the result, and why."""
    dropped: tuple[str, ...]
    """Columns that not every episode has."""


def convert(
    path: str | Path,
    out: str | Path,
    fps: int | float | None = None,
    size: int | None = None,
    task: str | None = None,
    workers: int = 1,
    progress: bool = True,
    *,
    camera: str | None = None,
) -> Converted:
    """Write a corpus as a LeRobot data set, version 3.0; interrupted, the same call goes on where it stopped.

    Args:
        path: what `open_corpus` takes.
        out: folder of the data set.
        fps: frames a second, instead of what the files say; without it the most common rate, and only episodes of it.
        size: pixels a side that frames are resized to; without it the first episode's, and only episodes of it.
        task: what is done, in words; the name of `path` when None.
        workers: processes.
        progress: show a progress bar.
        camera: of episodes that several cameras saw, this one alone.

    Raises:
        DilaError: nothing readable, no two frames anywhere, or `out` holds something else.
    """
    told, out = str(path) if is_remote(path) else str(Path(path).resolve()), Path(out)
    if workers < 1 or (size is not None and not 16 <= size <= 4096):
        raise DilaError(f"workers = {workers} must be at least 1 and size = {size} from 16 to 4096")
    if str(out.resolve()) == told:
        raise DilaError(f"{out} is the corpus itself; choose another folder for the result")
    corpus = open_corpus(path, fps, camera)
    rate, even, skipped = _even(corpus)
    shape = (size, size) if size else _size(even[0])
    columns, dropped = _common(even)
    # What was decided is a setting: a corpus that grew must not go on with another size or other columns.
    settings = {"source": "convert", "path": told, "format": "lerobot", "rate": rate}
    staging = begin(out, settings | {"size": list(shape), "columns": list(columns)})
    done = sources(out)
    left = [e for e in even if e.id not in done and not is_staged(staging, _name(e))]
    job = _Job(staging, rate, shape, size is not None, columns)
    for failed in run_jobs(job, left, workers, len(even), f"converting {Path(told).name}", progress):
        skipped += [failed] if failed else []
    names = {key: parts for key, parts in corpus.names.items() if key in columns}
    publish(out, staging, [_name(e) for e in even], names, rate, task or Path(told).name)
    shutil.rmtree(staging)
    written = len(sources(out))
    if not written:
        raise DilaError(f"{path} gave no episode: {len(skipped)} skipped, the first because {skipped[0].reason}")
    return Converted(out, written, tuple(skipped), dropped)


class _Job(NamedTuple):
    staging: Path
    rate: int | float
    size: tuple[int, int]
    resize: bool
    columns: Sequence[str]

    def __call__(self, episode: Episode) -> Skipped | None:
        """Encode one episode, or say why not."""
        try:
            columns = {name: episode.columns[name] for name in self.columns}
            stage_episode(self.staging, _name(episode), self._frames(episode), columns, self.rate, episode.id)
        except DilaError as error:
            return Skipped(Path(episode.id), str(error))
        return None

    def _frames(self, episode: Episode) -> Iterator[Tensor]:
        found = _size(episode)
        if found != self.size and not self.resize:
            raise DilaError(
                f"{episode.id} has frames of {found[0]} x {found[1]}, the first episode of {self.size[0]} x "
                f"{self.size[1]}; give a size"
            )
        chunk = max(16, CHUNK_BYTES // (3 * found[0] * found[1]))
        for start in range(0, len(episode.times), chunk):
            frames = episode.read(range(start, min(start + chunk, len(episode.times))))
            yield frames if found == self.size else F.interpolate(frames, self.size, mode="bilinear", antialias=True)


def _name(episode: Episode) -> str:
    """Of its staged files: the same whatever else is in the corpus."""
    return hashlib.blake2b(episode.id.encode(), digest_size=12).hexdigest()


def _size(episode: Episode) -> tuple[int, int]:
    rows, columns = episode.read([0]).shape[-2:]
    return int(rows), int(columns)


def _even(corpus: Corpus) -> tuple[int | float, list[Episode], list[Skipped]]:
    """The most common rate, the episodes that keep it, and the rest."""
    rates = {e.id: _rate(e.times) for e in corpus.episodes}
    common = Counter(rate for rate in rates.values() if rate).most_common(1)
    if not common:
        raise DilaError(f"{corpus.root} holds no episode with an even frame rate; give fps")
    rate = common[0][0]
    skipped = list(corpus.skipped)
    for episode in corpus.episodes:
        found = rates[episode.id]
        if found != rate:
            what = f"{found:g} frames a second" if found else "no even frame rate"
            skipped.append(Skipped(Path(episode.id), f"has {what}, most episodes have {rate:g}; give fps"))
    return rate, [e for e in corpus.episodes if rates[e.id] == rate], skipped


def _rate(times: np.ndarray) -> int | float | None:
    """Frames a second of even times, which containers round to milliseconds; None where they are not even."""
    if len(times) < 2:
        return None
    found = (len(times) - 1) / float(times[-1] - times[0])
    near = [rate for rate in (round(found), round(found * NTSC) / NTSC) if rate and abs(found / rate - 1) < SLACK]
    rate = min(near, key=lambda each: abs(found / each - 1)) if near else round(found, 3)
    even = np.abs(times - times[0] - np.arange(len(times)) / rate).max() < 0.5 / rate
    return rate if even else None


def _common(episodes: Sequence[Episode]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns that all episodes have, in the same shape and type, and the others."""
    kinds = [{name: (c.shape[1:], c.dtype) for name, c in e.columns.items()} for e in episodes]
    everywhere = tuple(name for name in kinds[0] if all(k.get(name) == kinds[0][name] for k in kinds))
    return everywhere, tuple(sorted({name for k in kinds for name in k} - set(everywhere)))
