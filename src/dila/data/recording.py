"""Record a corpus episode by episode: resumable, with several processes, never leaving incomplete files.

Every source of recorded data (`primitives`, `pusht`, the simulators) is a function from the number of an episode to its
frames and columns; `record` does the rest. Episodes are first written to the hidden staging folder ``.recording``,
which `open_corpus` ignores. When all are complete, a store moves them into place, with ``recording.json`` (the
settings, which a later call must match). There are two stores: `VideoFolder`, here, and
`dila.data.lerobot_write.LeRobotV3`.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from dila.data.given import as_film
from dila.data.pool import run_jobs
from dila.data.reading import action_rows, rows
from dila.data.table import TABLE, count_rows, read_table, write_table
from dila.data.video import probe_video, write_video
from dila.errors import DilaError
from dila.files import alone, at_home, read_object, replacing, write_json, writing
from dila.shapes import Tensor, UInt8

SETTINGS = "recording.json"
OURS = re.compile(r"episode_\d+\.mp4")
"""Matches the names that `episode_name` returns."""
STAGING = ".recording"
COLUMNS = "columns.json"
"""File in the staging folder with the columns of the first episode, which all others must have."""


class Recorded(NamedTuple):
    """One finished episode."""

    frames: UInt8[Tensor, "T 3 Y X"]
    columns: dict[str, np.ndarray]
    """``[T, A]`` each, or ``[T]`` for plain numbers; row f of ``action`` leads from frame f to f+1, and its last row
    may be missing. Floats are stored as float32."""
    split: str = "train"
    """The split that it belongs to; `VideoFolder` does not store it."""


@runtime_checkable
class Store(Protocol):
    """The layout of a finished recording; must be picklable for the worker processes."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the store, stored with those of the recording, JSON-ready."""
        ...

    def missing(self, out: Path, staging: Path, episodes: int) -> list[int]:
        """Return which of the episodes 0 .. episodes-1 are neither published nor staged."""
        ...

    def stage(self, staging: Path, number: int, episode: Recorded, fps: int | float) -> None:
        """Write one episode into the staging folder atomically."""
        ...

    def publish(
        self, out: Path, staging: Path, episodes: int, names: Mapping[str, tuple[str, ...]], fps: int | float
    ) -> None:
        """Move all staged episodes and the staged settings into place."""
        ...


def record(
    out: str | Path,
    episodes: int,
    make: Callable[[int], Recorded],
    *,
    settings: Mapping[str, Any],
    names: Mapping[str, tuple[str, ...]],
    fps: int | float,
    workers: int = 1,
    progress: bool = True,
    store: Store | None = None,
) -> Path:
    """Make those of episodes 0 .. episodes-1 that `out` lacks; continues an interrupted or shorter recording.

    Args:
        out: folder, created if it does not exist.
        episodes: total number of episodes.
        make: returns the episode of a number; must depend on nothing else, and be picklable if `workers` > 1.
        settings: JSON-ready description of what `make` does.
        names: component names of each column.
        fps: frames a second of the videos.
        workers: number of processes.
        progress: show a progress bar.
        store: the layout; None uses `VideoFolder`.

    Raises:
        DilaError: a count is below 1; or `out` has a recording with other settings or other files, or is in use by
            another process; or an episode has invalid frames, or columns that are not one row of numbers per frame,
            do not match `names`, or differ from those of other episodes.
    """
    if episodes < 1 or workers < 1:
        raise DilaError(f"episodes = {episodes} and workers = {workers} must be at least 1")
    out, store = at_home(out), store or VideoFolder()
    with alone(out):
        staging = begin(out, {**settings, **store.settings})
        if not any(map(_complete, staging.glob("episode_*.npz"))):  # no episode was staged, so its columns may change
            (staging / COLUMNS).unlink(missing_ok=True)
        job, missing = _Job(make, store, staging, names, fps), store.missing(out, staging, episodes)
        for _ in run_jobs(job, missing, workers, episodes, f"recording {out.name}", progress):
            pass
        with writing(out):
            store.publish(out, staging, episodes, names, fps)
            # On file systems without locks, another process may have finished the recording and removed the folder.
            shutil.rmtree(staging, ignore_errors=True)
    return out


def episode_name(number: int) -> str:
    """Return the file name of an episode."""
    return f"episode_{number:05d}.mp4"


def begin(out: Path, settings: Mapping[str, Any]) -> Path:
    """Create the staging folder, with the settings in it, and return it.

    Raises:
        DilaError: `out` is a file, or has a recording with other settings, or files that dila did not write.
    """
    staging = out / STAGING
    with writing(out):
        if out.exists() and not out.is_dir():
            raise DilaError(f"{out} is a file; give a folder to record into")
        _check_settings(out, dict(settings))
        _check_ours(out)
        write_json(staging / SETTINGS, settings)
    return staging


def count_episodes(out: Path) -> int:
    """Return the number of episodes of a finished recording, in either layout."""
    info = out / "meta" / "info.json"
    if info.is_file():
        return read_object(info, "restore it from a copy")["total_episodes"]
    return sum(1 for _ in out.glob("episode_*.mp4"))


class VideoFolder:
    """Store with ``episode_00000.mp4`` ... and one table of all columns, ``actions.parquet``."""

    settings: Mapping[str, Any] = MappingProxyType({})

    def missing(self, out: Path, staging: Path, episodes: int) -> list[int]:
        """Return which of the episodes 0 .. episodes-1 are neither published nor staged."""
        kept = self._kept(out)
        return [i for i in range(episodes) if episode_name(i) not in kept and not _staged(staging, i)]

    def stage(self, staging: Path, number: int, episode: Recorded, fps: int | float) -> None:
        """Write one episode; the video is written last and marks it as complete.

        Raises:
            DilaError: it has no columns, or one with a reserved name.
        """
        if not episode.columns or (taken := episode.columns.keys() & {"episode", "frame"}):
            what = f"a column {min(taken)!r}, a name that {TABLE} reserves" if episode.columns else "no columns"
            raise DilaError(f"episode {number} has {what}; give columns with other names, such as 'action'")
        video = staging / episode_name(number)
        save_columns(video.with_suffix(".npz"), episode.columns)
        write_video(video, episode.frames, fps)

    def publish(
        self, out: Path, staging: Path, episodes: int, names: Mapping[str, tuple[str, ...]], fps: int | float
    ) -> None:
        """Move the table into place first, then the videos, so that no video ever lacks its rows."""
        staged = [episode_name(i) for i in range(episodes) if _staged(staging, i)]
        if not staged:
            return
        columns = self._kept(out)
        here = _layout(next(iter(columns.values()), {}))
        for name in staged:
            with np.load((staging / name).with_suffix(".npz")) as arrays:
                columns[name] = {key: arrays[key] for key in arrays.files}
        new = _layout(columns[staged[0]])
        if other := here and [name for name in sorted({**here, **new}) if here.get(name) != new.get(name)]:
            raise DilaError(
                f"{out / TABLE} differs from this recording in the columns {', '.join(other)}; restore the table that "
                "dila wrote, and keep changed tables in a copy of the folder"
            )
        os.replace(staging / SETTINGS, out / SETTINGS)  # first, since a folder with files but without it is refused
        write_table(out / TABLE, dict(sorted(columns.items())), names)
        for name in staged:
            os.replace(staging / name, out / name)

    def _kept(self, out: Path) -> dict[str, dict[str, np.ndarray]]:
        """Read the columns of the episodes that are already in `out`."""
        if not (out / TABLE).is_file():
            return {}
        if others := [name for name in count_rows(out / TABLE) if not OURS.fullmatch(name)]:
            raise DilaError(
                f"{out / TABLE} has rows of {others[0]}, which dila did not record and would delete; keep your "
                "episodes in another folder (training can use several folders together)"
            )
        lengths = {p.name: len(probe_video(p)) for p in out.glob("episode_*.mp4")}
        return read_table(out / TABLE, lengths)[0]


def save_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write arrays as .npz atomically."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **columns)  # pyright: ignore[reportArgumentType]


class _Job(NamedTuple):
    make: Callable[[int], Recorded]
    store: Store
    staging: Path
    names: Mapping[str, tuple[str, ...]]
    fps: int | float

    def __call__(self, number: int) -> None:
        made = self._checked(number, self.make(number))
        with writing(self.staging):
            self._agree(number, made)
            self.store.stage(self.staging, number, made, self.fps)

    def _checked(self, number: int, made: Recorded) -> Recorded:
        """Check an episode and convert it to its stored form."""
        where = f"episode {number}"
        frames = as_film(self.staging / episode_name(number), made.frames, self.fps)
        columns = {name: rows(where, name, values) for name, values in made.columns.items()}
        if "action" in columns:
            columns["action"] = action_rows(where, columns["action"], len(frames))
        for name, values in columns.items():
            count, width = values.shape
            if count != len(frames):
                raise DilaError(f"{where} has {count} rows of {name!r} for {len(frames)} frames; give one per frame")
            if len(self.names.get(name, values[0])) != width:
                raise DilaError(
                    f"{where} has {width} numbers per row in {name!r}, but names = {self.names[name]}; give one name "
                    "for each"
                )
        return made._replace(frames=frames, columns=columns)

    def _agree(self, number: int, made: Recorded) -> None:
        """Check that the episode has the same columns as all others, including those of earlier calls."""
        path, ours = self.staging / COLUMNS, _layout(made.columns)
        with alone(path, wait=True):
            if not path.is_file():
                write_json(path, ours)
            others = read_object(path, f"delete {self.staging} to start again")
        if ours != others:
            raise DilaError(
                f"episode {number} has the columns {ours}, but others have {others}; give all episodes the same "
                f"columns, or delete {self.staging} to record them again"
            )


def _layout(columns: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return the dtype and width of each column."""
    return {name: f"{values.dtype} x {values.shape[1]}" for name, values in sorted(columns.items())}


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    for path in (out / SETTINGS, out / STAGING / SETTINGS):
        if not path.is_file():
            continue
        stored = read_object(path, "choose another folder, or delete this one to start again")
        wanted = json.loads(json.dumps(settings))
        if stored != wanted:
            keys = [k for k in {**stored, **wanted} if stored.get(k) != wanted.get(k)]
            parts = ", ".join(f"{k} = {stored.get(k)!r} (now {wanted.get(k)!r})" for k in keys)
            raise DilaError(f"{out} has a recording with {parts}; choose another folder or delete this one")


def _check_ours(out: Path) -> None:
    """Refuse a folder with files but without settings, which dila always writes first."""
    if out.is_dir() and not (out / SETTINGS).is_file() and any(not p.name.startswith(".") for p in out.iterdir()):
        raise DilaError(f"{out} has files that were not written by dila; choose another folder")


def _complete(columns: Path) -> bool:
    """Whether the file that either store writes last is beside these columns of an episode."""
    return columns.with_suffix(".mp4").is_file() or columns.with_suffix(".json").is_file()


def _staged(staging: Path, number: int) -> bool:
    return (staging / episode_name(number)).is_file()
