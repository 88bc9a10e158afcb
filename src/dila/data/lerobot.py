"""Reader of LeRobot data sets, v2.x (one parquet and mp4 per episode) and v3.0 (many episodes per file).

Each camera of each episode is an `Episode` with an id like ``episode_000012/observation.images.front``. Opening reads
only the tables of ``meta`` and the top-level sizes of the files; videos are read by time, and tables when a column is
accessed. It does not need the package lerobot. The layout is documented in docs/data.md; source:
https://github.com/huggingface/lerobot.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dila.data.lerobot_meta import INFO, converted_from, features, list_episodes, names, read_info, width
from dila.data.lerobot_tables import columns, first_row, group_of, image_group, stamps
from dila.data.reading import (
    LazyColumns,
    Names,
    Skipped,
    Split,
    hash_shared,
    join,
    open_table,
    picture_from,
    stacked,
    stamp,
)
from dila.data.seek import check_whole
from dila.data.span import Span, read_span
from dila.errors import DilaError, check_inside, refuse_shortage
from dila.shapes import Tensor, UInt8

RANGES = re.compile(r"\s*\d{1,9}\s*:\s*\d{1,9}\s*(,\s*\d{1,9}\s*:\s*\d{1,9}\s*)*", re.ASCII)
"""Ranges of episodes of a split, such as ``0:50``, or ``0:50,60:70`` if several calls of dila wrote the data set."""


class Origin(NamedTuple):
    """The source recording of an episode of a converted data set."""

    data: str
    """Path or address of its corpus."""
    recording: str
    """Its id in that corpus, without the camera."""


@dataclass(frozen=True, eq=False)
class LeRobotEpisode:
    """One camera of one recording as a `dila.protocols.Episode`."""

    id: str
    recording: str
    """Id shared by all cameras of this recording; a split keeps them on one side."""
    camera: str
    """Key of the feature."""
    times: np.ndarray
    frames: "_Video | _Images"
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    """Task descriptions, if the data set has them."""
    stamps: Callable[[], np.ndarray | None] | None = None
    """Returns the timestamps in its table, for `dila.data.check`; frames are located by index, not by these."""
    origin: Origin | None = None

    def read(self, frames: Sequence[int]) -> UInt8[Tensor, "N 3 Y X"]:
        """Read the frames with these indices, RGB; raises `DilaError` if a file is missing or cannot be decoded."""
        wanted = check_inside(f"{self.frames.path} ({self.id})", frames, len(self.times))
        return self.frames.read(wanted) if wanted else self.frames.read([0])[:0]

    def fingerprint(self) -> str:
        """Hash the file (its size and three samples) and the position of the episode in it."""
        told = f"{hash_shared(self.frames.path)} {self.frames.place}"
        return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


class _Video(NamedTuple):
    """Frames stored in a part of an mp4."""

    span: Span

    @property
    def path(self) -> Path:
        return self.span.path

    @property
    def place(self) -> str:
        return f"{self.span.start:.6f}"

    def read(self, frames: list[int]) -> UInt8[Tensor, "N 3 Y X"]:
        return read_span(self.span, frames)


class _Images(NamedTuple):
    """Frames stored as encoded images in a column of a table, in the rows of `episode`."""

    path: Path
    column: str
    episode: int

    @property
    def place(self) -> str:
        return f"{self.column} {self.episode}"

    def read(self, frames: list[int]) -> UInt8[Tensor, "N 3 Y X"]:
        first = first_row(self.path, self.episode)
        return stacked([self._one(first + f) for f in frames], str(self.path))

    def _one(self, row: int) -> np.ndarray:
        group, inside = group_of(self.path, row)
        cell = image_group(stamp(self.path), self.column, group)[inside].as_py() or {}
        data = cell if isinstance(cell, bytes) else cell.get("bytes")
        where = f"{self.path}, column {self.column}, row {row}"
        if not data:
            raise DilaError(f"{where} has no image; images must be stored in the table itself")
        return picture_from(data, where)


def claims(path: Path) -> bool:
    """Whether the path is a folder with ``meta/info.json``."""
    return (path / INFO).is_file()


def episodes(path: Path, name: str, fps: int | float | None) -> Iterator[LeRobotEpisode | Skipped | Names | Split]:
    """Yield every camera of every episode; `fps`, if given, replaces the rate of the data set in the frame times.

    Raises:
        DilaError: ``meta`` is damaged, of an unsupported version, or declares no camera.
    """
    info = read_info(path)
    cameras, numbers = features(path, info)
    listed = list_episodes(path, info, cameras)
    yield Names(names(info["features"], numbers))
    own, corpus = float(info["fps"]), converted_from(path)
    counts: Counter[Path] = Counter()
    for row in listed:
        counts[row.data] += row.length
    needed = (*numbers, *(key for key, kind in cameras.items() if kind == "image"))
    fault = cache(_fault)  # each file is checked once
    widths = {column: width(info["features"][key]) for key, column in numbers.items()}
    ids: dict[int, list[str]] = {}
    for row in listed:
        recording = join(name, f"episode_{row.number:06d}")
        if reason := fault(_check_table, row.data, needed, counts[row.data]):
            yield Skipped(row.data, f"{recording} is skipped: {reason}")
            continue
        times = np.arange(row.length) / (own if fps is None else fps)
        origin = Origin(corpus, row.source) if corpus and row.source else None
        lazy = LazyColumns(widths, partial(columns, row.data, row.number, row.length, numbers))
        for camera, kind in cameras.items():
            if kind == "video":
                file, start = row.videos[camera]
                if reason := fault(check_whole, file):
                    yield Skipped(file, f"{recording}/{camera} is skipped: {reason}")
                    continue
                source: _Video | _Images = _Video(Span(file, start, own, row.length))
            else:
                source = _Images(row.data, camera, row.number)
            told = partial(stamps, row.data, row.number)
            episode = LeRobotEpisode(
                join(recording, camera), recording, camera, times, source, lazy, row.tasks, told, origin
            )
            ids.setdefault(row.number, []).append(episode.id)
            yield episode
    yield from _splits(path, info, ids)


def _fault(check: Callable[..., None], *arguments: Any) -> str | None:
    """Return the error message of a check of a file, or None."""
    try:
        check(*arguments)
    except DilaError as error:
        refuse_shortage(error)
        return str(error)
    return None


def _check_table(path: Path, needed: Sequence[str], count: int) -> None:
    parquet = open_table(path)
    missing = [key for key in [*needed, "episode_index", "frame_index"] if key not in parquet.schema_arrow.names]
    if missing:
        raise DilaError(f"{path} has no column {missing[0]!r}, which {INFO} declares; fetch or convert it again")
    if parquet.metadata.num_rows != count:
        raise DilaError(f"{path} has {parquet.metadata.num_rows} rows for {count} frames; fetch or convert it again")


def _splits(path: Path, info: Mapping[str, Any], ids: Mapping[int, Sequence[str]]) -> Iterator[Split | Skipped]:
    stored = info.get("splits") or {}
    if not isinstance(stored, dict):
        yield Skipped(path / INFO, "its 'splits' are ignored: they do not map names to ranges of episodes")
        return
    for name, told in stored.items():
        if not RANGES.fullmatch(str(told)):
            yield Skipped(path / INFO, f"split {name!r} is ignored: {told!r} is not a range of episodes such as 0:50")
            continue
        ranges = [range(*map(int, part.split(":"))) for part in str(told).split(",")]
        inside = [number for number in ids if any(number in part for part in ranges)]
        yield Split(name, tuple(one for number in inside for one in ids[number]))
