"""Reader of videos and folders of images with a JSON document of actions: LoopNav, RT-1 as frames, transforms.

The location and contents of the document are specified in docs/data.md:

    trajectory_0.avi + trajectory_0.json     LoopNav as published: a list of one record per frame
    episode_7/0.jpg ... + actions.json       RT-1 as frames: a list, or {"fps", "actions", "states", "names"}
    mug/turn_3/0.png ... + parameters.json   Omni-Primitive-Transforms: {"transform", "states", "held_out"}
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dila.data import frames, video
from dila.data.primitives import KINDS
from dila.data.primitives import NAMES as TRANSFORM
from dila.data.reading import Names, Split, action_rows, read_json, rows
from dila.errors import DilaError

INSIDE = ("actions.json", "parameters.json", "meta.json")
"""Names of documents in a folder of images, in order of precedence; other .json files come after them."""
POSE = ("x", "y", "z", "yaw", "pitch")
"""Fields of a LoopNav record with the pose of the player."""
PARAMETERS = "parameters.json"


def claims(path: Path) -> bool:
    """Whether the path is a video or a folder of images whose document has actions or states."""
    try:
        return _document(path) is not None
    except DilaError:
        return False


def episodes(path: Path, name: str, fps: int | float | None) -> Iterator[Any]:
    """Yield the one episode of the path, with its columns.

    Raises:
        DilaError: the frames or the document are unreadable, or their numbers of frames differ.
    """
    found = _document(path)
    if found is None:
        raise DilaError(f"{path} has no JSON document of actions; see docs/data.md")
    file, told = found
    rate = fps or told.get("fps")
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < float("inf")):
        raise DilaError(f"{file} has fps = {rate!r}; it must be a number above 0")
    reader = frames if path.is_dir() else video
    (episode,) = reader.episodes(path, name, rate)
    try:
        columns, names = _columns(file, told, len(episode.times))
    except (TypeError, AttributeError, LookupError, ValueError, ArithmeticError) as error:
        raise DilaError(f"{file} does not have the layout in docs/data.md ({error}); write it again") from error
    yield Names(names)
    yield replace(episode, columns=columns)
    part = told.get("split") or ("held_out" if told.get("held_out") else "train" if "held_out" in told else None)
    if part:
        yield Split(str(part), (name,))


def _document(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the path and contents of the document of a video or a folder of images, or None if it has none."""
    if path.suffix.lower() in video.SUFFIXES and path.is_file():
        candidates = [path.with_suffix(".json")]
        if (path.parent / "meta.json").is_file() and _is_alone(path):
            candidates.append(path.parent / "meta.json")
    elif frames.claims(path):
        candidates = [path / name for name in INSIDE]
        candidates += [p for p in sorted(path.glob("*.json")) if p.name not in INSIDE]
    else:
        return None
    for file in (file for file in candidates if file.is_file()):
        told = read_json(file)
        if isinstance(told, list):
            told = {"actions": told} if told and isinstance(told[0], dict | list | int | float) else {}
        if isinstance(told, dict) and ("actions" in told or "states" in told):
            return file, told
    return None


def _is_alone(path: Path) -> bool:
    """Whether no other (not hidden) video is in the same folder."""
    with os.scandir(path.parent) as beside:  # stops at the first, since this runs for each of thousands of videos
        names = (entry.name for entry in beside if entry.name != path.name and not entry.name.startswith("."))
        return not any(Path(name).suffix.lower() in video.SUFFIXES for name in names)


def _columns(
    file: Path, told: Mapping[str, Any], count: int
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    columns: dict[str, np.ndarray] = {}
    names: dict[str, tuple[str, ...]] = {}
    records = told.get("actions") or []
    if records and isinstance(records[0], dict) and "action" in records[0]:
        states = [{key: r[key] for key in POSE} for r in records] if all(map(_has_pose, records)) else []
        records = [r.get("action") for r in records]
    else:
        states = told.get("states") or []
    for column, some in (("action", records), ("state", states)):
        if some:
            columns[column], parts = _flat(file, column, some)
            parts = parts or tuple(map(str, (told.get("names") or {}).get(column, ())))
            if len(parts) == columns[column].shape[1]:
                names[column] = parts
    if file.name == PARAMETERS:
        _add_transform(file, told, columns, names)
    for column, values in columns.items():
        if column == "action":
            columns[column] = action_rows(str(file), values, count)
        elif len(values) != count:
            raise DilaError(f"{file} has {len(values)} rows of {column!r} for {count} frames; it needs one per frame")
    return columns, names


def _has_pose(record: Any) -> bool:
    return isinstance(record, dict) and all(isinstance(record.get(key), int | float) for key in POSE)


def _flat(file: Path, column: str, records: list[Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert records to rows of numbers and component names; named parts follow the order of the first record."""
    if not isinstance(records[0], dict):
        return rows(str(file), column, records), ()
    keys = list(records[0])
    try:
        wide = [
            [np.atleast_1d(np.asarray(record[key], dtype=np.float32)).ravel() for key in keys] for record in records
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DilaError(
            f"{file} has a record of {column!r} in which one of {keys} is missing or not a number; fix the record"
        ) from error
    parts = [
        key if part.size == 1 else f"{key}_{i}"
        for key, part in zip(keys, wide[0], strict=True)
        for i in range(part.size)
    ]
    return rows(str(file), column, [np.concatenate(record).tolist() for record in wide]), tuple(parts)


def _add_transform(
    file: Path, told: Mapping[str, Any], columns: dict[str, np.ndarray], names: dict[str, tuple[str, ...]]
) -> None:
    """Add the columns that our own recordings of transforms have: actions as differences of states, and the kind."""
    if "state" not in columns or columns["state"].shape[1] != len(TRANSFORM["state"]):
        raise DilaError(f"{file} must have 'states', one list of {', '.join(TRANSFORM['state'])} per frame")
    if told.get("transform") not in KINDS:
        raise DilaError(f"{file} has transform = {told.get('transform')!r}; it must be one of {', '.join(KINDS)}")
    count = len(columns["state"])
    columns.setdefault("action", np.diff(columns["state"].astype(np.float32), axis=0))
    columns["kind"] = np.full((count, 1), KINDS.index(told["transform"]))
    names |= {key: TRANSFORM[key] for key in ("state", "action", "kind")}
