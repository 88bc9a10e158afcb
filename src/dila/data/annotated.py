"""Videos and folders of images with a JSON document of their actions: LoopNav, RT-1 as frames, primitive transforms.

Where the document lies, and what it holds, is documented in docs/data.md:

    trajectory_0.avi + trajectory_0.json     LoopNav as published: a list of one record a frame
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
"""Documents in a folder of images, or beside its only video, in the order in which they are asked."""
POSE = ("x", "y", "z", "yaw", "pitch")
"""What a LoopNav record says of where the player is."""
PARAMETERS = "parameters.json"


def claims(path: Path) -> bool:
    """Whether this reader takes the path: a video or a folder of images whose document holds actions or states."""
    try:
        return _document(path) is not None
    except DilaError:
        return False


def episodes(path: Path, name: str, fps: int | float | None) -> Iterator[Any]:
    """The one episode there, with its columns.

    Raises:
        DilaError: pictures or document are unreadable, or do not have the same number of frames.
    """
    found = _document(path)
    if found is None:
        raise DilaError(f"{path} has no document of actions; see docs/data.md")
    file, told = found
    rate = fps or told.get("fps")
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < float("inf")):
        raise DilaError(f"{file} gives fps = {rate!r}; it must be a number above 0")
    reader = frames if path.is_dir() else video
    (episode,) = reader.episodes(path, name, rate)
    try:
        columns, names = _columns(file, told, len(episode.times))
    except (TypeError, AttributeError, LookupError, ValueError, ArithmeticError) as error:
        raise DilaError(f"{file} is not laid out as docs/data.md says ({error}); write it anew") from error
    yield Names(names)
    yield replace(episode, columns=columns)
    part = told.get("split") or ("held_out" if told.get("held_out") else "train" if "held_out" in told else None)
    if part:
        yield Split(str(part), (name,))


def _document(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """The document of a video or a folder of images, and what it holds, or None where it has none of our kinds."""
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
    """Whether no other video lies beside, as far as a corpus shows them."""
    with os.scandir(path.parent) as beside:  # left at the first, as each of thousands of videos asks
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
            raise DilaError(f"{file} has {len(values)} rows of {column} for {count} frames; one a frame is needed")
    return columns, names


def _has_pose(record: Any) -> bool:
    return isinstance(record, dict) and all(isinstance(record.get(key), int | float) for key in POSE)


def _flat(file: Path, column: str, records: list[Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Records as rows of numbers; those with names are laid out in the order of the first one's."""
    if not isinstance(records[0], dict):
        return rows(str(file), column, records), ()
    keys = list(records[0])
    try:
        wide = [
            [np.atleast_1d(np.asarray(record[key], dtype=np.float32)).ravel() for key in keys] for record in records
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DilaError(
            f"{file} has a record of {column} that lacks one of {keys}, or holds something other than numbers there"
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
    """What a clip of a transformed object has as our own recordings do: actions as differences, and the kind."""
    if "state" not in columns or columns["state"].shape[1] != len(TRANSFORM["state"]):
        raise DilaError(f"{file} needs 'states', one list of {', '.join(TRANSFORM['state'])} a frame")
    if told.get("transform") not in KINDS:
        raise DilaError(f"{file} gives transform = {told.get('transform')!r}; it should be one of {', '.join(KINDS)}")
    count = len(columns["state"])
    columns.setdefault("action", np.diff(columns["state"].astype(np.float32), axis=0))
    columns["kind"] = np.full((count, 1), KINDS.index(told["transform"]))
    names |= {key: TRANSFORM[key] for key in ("state", "action", "kind")}
