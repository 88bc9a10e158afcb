"""Making a corpus episode by episode: resumable, on several processes, never with half a file in sight.

Every source of made-up data (`primitives`, `pusht`, the simulators) is a function from an episode's number to its
frames and columns; `record` does the rest. While it works, episodes lie in the hidden folder ``.recording``, which
`open_corpus` does not enter; once all are there a store moves them into place, with ``recording.json`` (the settings,
against which a later call is checked). There are two stores: `VideoFolder`, here, and
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
"""What `episode_name` gives."""
STAGING = ".recording"
COLUMNS = "columns.json"
"""In the hidden folder: the columns of the episode that was there first, which all others have as well."""


class Recorded(NamedTuple):
    """One finished episode."""

    frames: UInt8[Tensor, "T 3 Y X"]
    columns: dict[str, np.ndarray]
    """``[T, A]`` each, or ``[T]`` of plain numbers; row f of ``action`` moves frame f to f+1, and its last row may be
    left out. Floats are stored as float32."""
    split: str = "train"
    """The part of the data set that it belongs to; `VideoFolder` has no place for it."""


@runtime_checkable
class Store(Protocol):
    """The layout of a finished recording; pickled to the worker processes."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What joins the settings of the recording, JSON-ready."""
        ...

    def missing(self, out: Path, staging: Path, episodes: int) -> list[int]:
        """Which of the episodes 0 .. episodes-1 are neither in place nor staged."""
        ...

    def stage(self, staging: Path, number: int, episode: Recorded, fps: int | float) -> None:
        """Write one episode into the hidden folder, so that it is there whole or not at all."""
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
    """Make episodes 0 .. episodes-1 that `out` does not hold yet; an interrupted or shorter recording goes on.

    Args:
        out: folder, made if need be.
        episodes: how many there are in the end.
        make: episode number to episode; depends on nothing else, and can be pickled when `workers` > 1.
        settings: JSON-ready description of what `make` does.
        names: component names of each column.
        fps: frames a second of the videos.
        workers: processes.
        progress: show a progress bar.
        store: the layout; `VideoFolder` when None.

    Raises:
        DilaError: a count below 1, or `out` holds a recording with other settings, or other files, or another
            process works on it; or, before it is stored, an episode whose frames are no pictures, whose columns are
            not one row of numbers a frame, do not fit `names` or are not those of the other episodes.
    """
    if episodes < 1 or workers < 1:
        raise DilaError(f"episodes = {episodes} and workers = {workers} must be at least 1")
    out, store = at_home(out), store or VideoFolder()
    with alone(out):
        staging = begin(out, {**settings, **store.settings})
        if not any(staging.glob("episode_*")):  # what was refused or never finished binds nobody
            (staging / COLUMNS).unlink(missing_ok=True)
        job, missing = _Job(make, store, staging, names, fps), store.missing(out, staging, episodes)
        for _ in run_jobs(job, missing, workers, episodes, f"recording {out.name}", progress):
            pass
        with writing(out):
            store.publish(out, staging, episodes, names, fps)
            # Where disks have no locks, another process that found the recording whole may have been here.
            shutil.rmtree(staging, ignore_errors=True)
    return out


def episode_name(number: int) -> str:
    """File name of an episode."""
    return f"episode_{number:05d}.mp4"


def begin(out: Path, settings: Mapping[str, Any]) -> Path:
    """The hidden folder to work in, with the settings in it.

    Raises:
        DilaError: `out` is a file, or holds a recording with other settings, or files that are no recording.
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
    """How many episodes a finished recording holds, in either layout."""
    info = out / "meta" / "info.json"
    if info.is_file():
        return read_object(info, "put it back from a copy")["total_episodes"]
    return sum(1 for _ in out.glob("episode_*.mp4"))


class VideoFolder:
    """``episode_00000.mp4`` ..., and one table of all columns, ``actions.parquet``."""

    settings: Mapping[str, Any] = MappingProxyType({})

    def missing(self, out: Path, staging: Path, episodes: int) -> list[int]:
        """Which of the episodes 0 .. episodes-1 are neither in place nor staged."""
        kept = self._kept(out)
        return [i for i in range(episodes) if episode_name(i) not in kept and not _staged(staging, i)]

    def stage(self, staging: Path, number: int, episode: Recorded, fps: int | float) -> None:
        """Write one episode; the video is written last, so it stands for the whole.

        Raises:
            DilaError: no columns, or one that is called as one of the table's own.
        """
        if not episode.columns or (taken := episode.columns.keys() & {"episode", "frame"}):
            what = f"a column called {min(taken)!r}, as {TABLE} has itself" if episode.columns else "no columns"
            raise DilaError(f"episode {number} has {what}; give its actions, under other names")
        video = staging / episode_name(number)
        save_columns(video.with_suffix(".npz"), episode.columns)
        write_video(video, episode.frames, fps)

    def publish(
        self, out: Path, staging: Path, episodes: int, names: Mapping[str, tuple[str, ...]], fps: int | float
    ) -> None:
        """Table first, videos after: a table may name videos that are not there yet, but no video lacks its rows."""
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
                f"{out / TABLE} has other columns than this recording ({', '.join(other)}); keep yours in a "
                "copy of the folder, and put back the table that dila wrote"
            )
        os.replace(staging / SETTINGS, out / SETTINGS)  # first: a folder with anything but no settings is not ours
        write_table(out / TABLE, dict(sorted(columns.items())), names)
        for name in staged:
            os.replace(staging / name, out / name)

    def _kept(self, out: Path) -> dict[str, dict[str, np.ndarray]]:
        """Columns of the episodes that an earlier, finished recording left in `out`."""
        if not (out / TABLE).is_file():
            return {}
        if others := [name for name in count_rows(out / TABLE) if not OURS.fullmatch(name)]:
            raise DilaError(
                f"{out / TABLE} has rows of {others[0]}, which dila did not record and would lose; keep your episodes "
                "in another folder: several can be trained on together"
            )
        lengths = {p.name: len(probe_video(p)) for p in out.glob("episode_*.mp4")}
        return read_table(out / TABLE, lengths)[0]


def save_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write arrays as .npz, whole or not at all."""
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
        """The episode as it is stored, if readers will take it."""
        where = f"episode {number}"
        frames = as_film(self.staging / episode_name(number), made.frames, self.fps)
        columns = {name: rows(where, name, values) for name, values in made.columns.items()}
        if "action" in columns:
            columns["action"] = action_rows(where, columns["action"], len(frames))
        for name, values in columns.items():
            count, width = values.shape
            if count != len(frames):
                raise DilaError(f"{where} has {count} rows of {name!r} for {len(frames)} frames; one a frame is needed")
            if len(self.names.get(name, values[0])) != width:
                raise DilaError(
                    f"{where} has {width} numbers a row in {name!r}, and names = {self.names[name]}; give one name each"
                )
        return made._replace(frames=frames, columns=columns)

    def _agree(self, number: int, made: Recorded) -> None:
        """See that all episodes have the same columns, those of earlier calls as well."""
        path, ours = self.staging / COLUMNS, _layout(made.columns)
        with alone(path, wait=True):
            if not path.is_file():
                write_json(path, ours)
            others = read_object(path, f"delete {self.staging} to begin anew")
        if ours != others:
            raise DilaError(
                f"episode {number} has the columns {ours}, and others have {others}; make the same ones in all, or "
                f"delete {self.staging} to make all of them anew"
            )


def _layout(columns: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Kind and width of each column."""
    return {name: f"{values.dtype} x {values.shape[1]}" for name, values in sorted(columns.items())}


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    for path in (out / SETTINGS, out / STAGING / SETTINGS):
        if not path.is_file():
            continue
        stored = read_object(path, "choose another folder, or delete this one to begin anew")
        wanted = json.loads(json.dumps(settings))
        if stored != wanted:
            keys = [k for k in {**stored, **wanted} if stored.get(k) != wanted.get(k)]
            parts = ", ".join(f"{k} = {stored.get(k)!r} (now {wanted.get(k)!r})" for k in keys)
            raise DilaError(f"{out} holds a recording with {parts}; choose another folder or delete this one")


def _check_ours(out: Path) -> None:
    """Whatever writes here moves its settings into place before all else."""
    if out.is_dir() and not (out / SETTINGS).is_file() and any(not p.name.startswith(".") for p in out.iterdir()):
        raise DilaError(f"{out} holds files that were not written by dila; choose another folder")


def _staged(staging: Path, number: int) -> bool:
    return (staging / episode_name(number)).is_file()
