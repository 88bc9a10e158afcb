"""Making a corpus episode by episode: resumable, on several processes, never with half a file in sight.

Every source of made-up data (`primitives`, `pusht`, later simulators) is a function from an episode's number to its
frames and columns; `record` does the rest. While it works, episodes lie in the hidden folder ``.recording``, which
`open_corpus` does not enter; once all are there they become ``episode_00000.mp4`` ..., ``actions.parquet`` and
``recording.json`` (the settings, against which a later call is checked).
"""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch

from dila.data.table import TABLE, read_table, write_table
from dila.data.video import probe_video, write_video
from dila.errors import DilaError
from dila.shapes import Tensor, UInt8

SETTINGS = "recording.json"
STAGING = ".recording"


class Recorded(NamedTuple):
    """One finished episode."""

    frames: UInt8[Tensor, "T 3 Y X"]
    columns: dict[str, np.ndarray]
    """``[T, A]`` each, float32; row f of ``action`` moves frame f to f+1."""


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

    Raises:
        DilaError: a count below 1, or `out` holds a recording with other settings.
    """
    from tqdm import tqdm

    if episodes < 1 or workers < 1:
        raise DilaError(f"episodes = {episodes} and workers = {workers} must be at least 1")
    out = Path(out)
    staging = out / STAGING
    if out.exists() and not out.is_dir():
        raise DilaError(f"{out} is a file; give a folder to record into")
    _check_settings(out, dict(settings))
    kept = _kept(out, episodes)
    missing = [i for i in range(episodes) if episode_name(i) not in kept and not _staged(staging, i)]
    staging.mkdir(parents=True, exist_ok=True)
    _write_json(staging / SETTINGS, settings)
    bar = tqdm(total=episodes, initial=episodes - len(missing), desc=f"recording {out.name}", disable=not progress)
    with bar:
        for _ in _run(_Job(make, staging, fps), missing, workers):
            bar.update()
    _publish(out, staging, kept, episodes, names)
    return out


def episode_name(number: int) -> str:
    """File name of an episode."""
    return f"episode_{number:05d}.mp4"


class _Job(NamedTuple):
    make: Callable[[int], Recorded]
    staging: Path
    fps: int | float

    def __call__(self, number: int) -> None:
        """Make one episode; the video is written last, so it stands for the whole."""
        episode = self.make(number)
        video = self.staging / episode_name(number)
        temporary = video.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, **episode.columns)  # pyright: ignore[reportArgumentType]
        os.replace(temporary, video.with_suffix(".npz"))
        write_video(video, episode.frames, self.fps)


def _run(job: _Job, numbers: list[int], workers: int) -> Iterator[None]:
    if workers == 1 or len(numbers) <= 1:
        yield from map(job, numbers)
        return
    # Spawned, not forked: a fork of a process in which torch or SDL already has threads can hang.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield from pool.map(job, numbers)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A pool whose owner was killed would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    for path in (out / SETTINGS, out / STAGING / SETTINGS):
        if not path.is_file():
            continue
        stored = json.loads(path.read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(settings))
        if stored != wanted:
            keys = [k for k in {**stored, **wanted} if stored.get(k) != wanted.get(k)]
            parts = ", ".join(f"{k} = {stored.get(k)!r} (now {wanted.get(k)!r})" for k in keys)
            raise DilaError(f"{out} holds a recording with {parts}; choose another folder or delete this one")


def _kept(out: Path, episodes: int) -> dict[str, dict[str, np.ndarray]]:
    """Columns of the episodes that an earlier, finished recording left in `out`."""
    if not (out / TABLE).is_file():
        return {}
    lengths = {p.name: len(probe_video(p)) for p in out.glob("episode_*.mp4")}
    return read_table(out / TABLE, lengths)[0]


def _staged(staging: Path, number: int) -> bool:
    return (staging / episode_name(number)).is_file()


def _publish(
    out: Path,
    staging: Path,
    kept: dict[str, dict[str, np.ndarray]],
    episodes: int,
    names: Mapping[str, tuple[str, ...]],
) -> None:
    """Table first, videos after: a table may name videos that are not there yet, but no video lacks its rows."""
    staged = [episode_name(i) for i in range(episodes) if _staged(staging, i)]
    if staged:
        columns = dict(kept)
        for name in staged:
            with np.load((staging / name).with_suffix(".npz")) as arrays:
                columns[name] = {key: arrays[key] for key in arrays.files}
        write_table(out / TABLE, dict(sorted(columns.items())), names)
        os.replace(staging / SETTINGS, out / SETTINGS)
        for name in staged:
            os.replace(staging / name, out / name)
    shutil.rmtree(staging)


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(temporary, path)
