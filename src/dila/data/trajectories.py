"""Reader of RECON and related data sets: a folder of numbered images per trajectory, positions in ``traj_data.pkl``.

    recon/
        jackal_2019-08-02-16-23-29_0_r00/
            0.jpg 1.jpg ...
            traj_data.pkl        {"position": [T, 2], "yaw": [T] or [T, 1]}
        .../train/traj_names.txt  one folder name per line (also test/, val/, in any folder beside the trajectories)

``state`` is x, y, yaw; ``action`` is the motion from frame f to f+1 in the robot's frame of reference at f: forward,
left, and the change of yaw. It is derived from the state, since no actions are stored; the last row is NaN. Source of
the layout: https://github.com/robodhruv/visualnav-transformer (``process_recon.py``).
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dila.data import frames, hdf5, video
from dila.data.frames import FrameEpisode
from dila.data.pickles import load_arrays
from dila.data.reading import Names, Skipped, Split, join, read_text, rows
from dila.errors import DilaError, refuse_shortage

DATA = "traj_data.pkl"
NAMES = "traj_names.txt"
FPS = 4.0
"""Frame rate of RECON; ``meta.json`` in the folder or the caller may override it."""
LOOKED_AT = 64
"""Maximum number of subfolders checked for a trajectory, to recognise a data set."""
DEPTH = 3
"""Depth to which folders are searched for lists of names."""


def claims(path: Path) -> bool:
    """Whether the path is a trajectory or a folder of trajectories."""
    if not path.is_dir():
        return False
    if (path / DATA).is_file():
        return True
    with os.scandir(path) as children:
        folders = (Path(child.path) for child in children if child.is_dir() and not child.name.startswith("."))
        return any((folder / DATA).is_file() for folder in islice(folders, LOOKED_AT))


def episodes(path: Path, name: str, fps: int | float | None) -> Iterator[FrameEpisode | Skipped | Names | Split]:
    """Yield the trajectories, and the splits that ``traj_names.txt`` files define."""
    yield Names({"state": ("x", "y", "yaw"), "action": ("forward", "left", "turn")})
    if (path / DATA).is_file():
        yield _trajectory(path, name, fps)
        return
    ids, lists = {}, []
    for child in sorted(path.iterdir(), key=lambda p: frames.natural_order(p.name)):
        if child.name.startswith("."):
            continue
        if not (child / DATA).is_file():
            found = list(_lists(child, DEPTH)) if child.is_dir() else []
            lists += found
            if not found and (child.is_dir() or child.suffix.lower() in video.SUFFIXES | hdf5.SUFFIXES):
                reason = f"{child} is beside trajectories and is not read; move it to a folder without trajectories"
                yield Skipped(child, reason, fault=False)
            continue
        try:
            episode = _trajectory(child, join(name, child.name), fps)
        except DilaError as error:
            refuse_shortage(error)
            yield Skipped(child, str(error))
            continue
        ids[child.name] = episode.id
        yield episode
    for file in lists:
        try:
            members = read_text(file).split("\n")
        except (OSError, ValueError) as error:
            yield Skipped(file, f"{file} is not a readable list of names ({error}); fetch it again")
            continue
        yield Split(file.parent.name, tuple(ids[m.strip()] for m in members if m.strip() in ids))


def _lists(folder: Path, depth: int) -> Iterator[Path]:
    """Find the lists of names in a folder that is not a trajectory, up to `depth` levels deep."""
    if (folder / NAMES).is_file():
        yield folder / NAMES
    elif depth > 1:
        for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink()):
            yield from _lists(child, depth - 1)


def _trajectory(path: Path, name: str, fps: int | float | None) -> FrameEpisode:
    pictures = (p.suffix.lower() in frames.SUFFIXES and not p.name.startswith(".") for p in path.iterdir())
    if not any(pictures):
        raise DilaError(f"{path} has a {DATA} but no images; fetch it again")
    (episode,) = frames.episodes(path, name, fps, FPS)
    state = _state(path / DATA, len(episode.times))
    return replace(episode, columns={"state": state.astype(np.float32), "action": onward(state)})


def _state(path: Path, count: int) -> np.ndarray:
    """Read x, y, yaw as float64, since the differences of large coordinates are small."""
    stored = load_arrays(path)
    if not isinstance(stored, dict) or "position" not in stored or "yaw" not in stored:
        raise DilaError(f"{path} lacks 'position' or 'yaw'; write it as process_recon.py does")
    position, yaw = (rows(str(path), key, stored[key], np.float64).astype(np.float64) for key in ("position", "yaw"))
    if len(position) != count or len(yaw) != count or position.shape[1] < 2 or yaw.shape[1] != 1:
        raise DilaError(
            f"{path} has {len(position)} positions and {len(yaw)} yaws for {count} images; it needs x and y, and one "
            "yaw, for each image"
        )
    return np.concatenate([position[:, :2], yaw], axis=1)


def onward(state: Any) -> np.ndarray:
    """Derive actions from x, y, yaw ``T 3``: the motion to the next frame in the robot's frame; the last row is NaN."""
    step, yaw = np.diff(state, axis=0), state[:-1, 2]
    forward = np.cos(yaw) * step[:, 0] + np.sin(yaw) * step[:, 1]
    left = -np.sin(yaw) * step[:, 0] + np.cos(yaw) * step[:, 1]
    turn = (step[:, 2] + np.pi) % (2 * np.pi) - np.pi
    moved = np.stack([forward, left, turn], axis=1)
    return np.concatenate([moved, np.full((1, 3), np.nan)]).astype(np.float32)
