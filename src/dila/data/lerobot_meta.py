"""Reader of the folder ``meta`` of a LeRobot data set: its features, and the files of each episode."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

import numpy as np

from dila.data.lerobot_tables import ADDRESS
from dila.data.reading import check_length, open_table, read_columns, read_json, read_text
from dila.data.recording import SETTINGS
from dila.errors import DilaError

INFO = "meta/info.json"
RENAMED = {"observation.state": "state"}
"""Features that get another column name, unless another feature has that name."""
NUMBERS = ("float", "int", "uint", "bool")
FORM = re.compile(r"(0?[1-9])?d?")


class Row(NamedTuple):
    """The entry of one episode in ``meta``."""

    number: int
    length: int
    data: Path
    videos: dict[str, tuple[Path, float]]
    tasks: tuple[str, ...] = ()
    source: str | None = None
    """Id of the recording in the source, if dila wrote the data set."""


def list_episodes(path: Path, info: Mapping[str, Any], cameras: Mapping[str, str]) -> list[Row]:
    """List all episodes in the order of their numbers.

    Raises:
        DilaError: the list is missing, damaged, or points outside the data set.
    """
    videos = [key for key, kind in cameras.items() if kind == "video"]
    found = (_v3 if info["codebase_version"].startswith("v3") else _v2)(path, info, videos)
    return sorted(found, key=lambda row: row.number)


def read_info(path: Path) -> dict[str, Any]:
    """Read ``meta/info.json``.

    Raises:
        DilaError: it lacks features or rate, or is of an unsupported version.
    """
    info = read_json(path / INFO)
    declared = info.get("features") if isinstance(info, dict) else None
    whole = isinstance(declared, dict) and all(isinstance(f, dict) and "dtype" in f for f in declared.values())
    if not whole or not _positive(info.get("fps")):
        raise DilaError(f"{path / INFO} must have 'features' and an 'fps' above 0, as LeRobot writes it")
    version = str(info.get("codebase_version", ""))
    if not version.startswith(("v2", "v3")):
        raise DilaError(f"{path / INFO} has codebase_version = {version!r}; only v2.0, v2.1 and v3.0 are supported")
    return info


def converted_from(path: Path) -> str | None:
    """Return the source corpus that `dila.data.convert` recorded for this data set, or None."""
    with suppress(DilaError):
        told = read_json(path / SETTINGS) if (path / SETTINGS).is_file() else None
        if isinstance(told, dict) and told.get("source") == "convert" and isinstance(told.get("path"), str):
            return told["path"]
    return None


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and 1e-6 < value < 1e6


def features(path: Path, info: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the cameras with their type (video or image), and the keys of numeric features with their column names.

    Raises:
        DilaError: there is no camera.
    """
    declared = info["features"]
    cameras = {
        key: feature["dtype"]
        for key, feature in declared.items()
        if feature["dtype"] in ("video", "image") and not _is_depth(feature)
    }
    if not cameras:
        raise DilaError(f"{path / INFO} declares no feature of dtype video or image; use a data set with a camera")
    numeric = [key for key, f in declared.items() if str(f["dtype"]).startswith(NUMBERS) and key not in ADDRESS]
    return cameras, {key: key if RENAMED.get(key) in numeric else str(RENAMED.get(key, key)) for key in numeric}


def text_features(path: Path) -> tuple[str, ...]:
    """Return the keys of text features, which are not read as columns."""
    declared = read_info(path)["features"]
    return tuple(f"{key} (text)" for key, feature in declared.items() if feature["dtype"] == "string")


def _is_depth(feature: Mapping[str, Any]) -> bool:
    told = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(told.get("is_depth_map") or told.get("video.is_depth_map"))


def width(feature: Mapping[str, Any]) -> int:
    """Return how many numbers a feature has per frame."""
    return int(np.prod(feature.get("shape") or [1]))


def names(declared: Mapping[str, Any], numbers: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the component names of columns, if the data set gives one for each component."""
    found = {}
    for key, column in numbers.items():
        stored = declared[key].get("names")
        parts = stored
        if isinstance(stored, dict):
            parts = [part for some in stored.values() for part in (some if isinstance(some, list) else [some])]
        if isinstance(parts, list) and len(parts) == width(declared[key]):
            found[column] = tuple(map(str, parts))
    return found


def _v2(path: Path, info: Mapping[str, Any], videos: Sequence[str]) -> list[Row]:
    listing = path / "meta" / "episodes.jsonl"
    try:
        size = int(info.get("chunks_size") or 1000)
        told = [json.loads(line) for line in read_text(listing).splitlines() if line.strip()]
        return [_v2_row(path, info, videos, row, size) for row in told]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise DilaError(f"{listing} or {INFO} does not list the episodes as LeRobot v2 does: {error!r}") from error


def _v2_row(path: Path, info: Mapping[str, Any], videos: Sequence[str], row: Mapping[str, Any], size: int) -> Row:
    number = int(row["episode_index"])
    length = check_length(f"{path / 'meta'}: episode {number}", int(row["length"]))
    place = {"episode_chunk": number // size, "episode_index": number}
    files = {key: (_inside(path, _filled(info["video_path"], video_key=key, **place)), 0.0) for key in videos}
    return Row(number, length, _inside(path, _filled(info["data_path"], **place)), files, _tasks(row))


def _v3(path: Path, info: Mapping[str, Any], videos: Sequence[str]) -> list[Row]:
    keys = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    keys += [f"videos/{key}/{part}" for key in videos for part in ("chunk_index", "file_index", "from_timestamp")]
    files = sorted((path / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise DilaError(f"{path / 'meta' / 'episodes'} has no table of the episodes; fetch the data set again")
    found: list[Row] = []
    for file in files:
        parquet = open_table(file)
        missing = [key for key in keys if key not in parquet.schema_arrow.names]
        if missing:
            raise DilaError(f"{file} has no column {missing[0]!r}, which LeRobot v3.0 needs; fetch it again")
        told = [*keys, *({"tasks", "source"} & set(parquet.schema_arrow.names))]
        found += [_v3_row(path, info, videos, row) for row in read_columns(file, parquet, told).to_pylist()]
    return found


def _tasks(row: Mapping[str, Any]) -> tuple[str, ...]:
    told = row.get("tasks")
    return tuple(map(str, told)) if isinstance(told, list) else ()


def _v3_row(path: Path, info: Mapping[str, Any], videos: Sequence[str], row: Mapping[str, Any]) -> Row:
    def place(prefix: str) -> dict[str, int]:
        return {part: int(row[f"{prefix}/{part}"]) for part in ("chunk_index", "file_index")}

    try:
        data = _inside(path, _filled(info["data_path"], **place("data")))
        files = {
            key: (
                _inside(path, _filled(info["video_path"], video_key=key, **place(f"videos/{key}"))),
                float(row[f"videos/{key}/from_timestamp"]),
            )
            for key in videos
        }
        length = check_length(f"{path / 'meta'}: episode {row['episode_index']}", int(row["length"]))
        source = row["source"] if isinstance(row.get("source"), str) else None
        return Row(int(row["episode_index"]), length, data, files, _tasks(row), source)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DilaError(f"{path / INFO} does not match meta/episodes: {error!r}; fetch both again") from error


def _filled(template: str, **values: Any) -> str:
    """Fill in a path template whose fields are plain names, at most padded to a few digits.

    Unrestricted, `str.format` can access attributes, and pads to gigabytes if the field width says so.
    """
    for _, field, form, conversion in Formatter().parse(template):
        if field is not None and (field not in values or not FORM.fullmatch(form or "") or conversion):
            raise ValueError(f"the path {template[:100]!r} has a field other than {', '.join(values)}")
    return template.format(**values)


def _inside(path: Path, name: str) -> Path:
    """Return the path of a file of the data set; raises `DilaError` if it is outside."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise DilaError(f"{path / INFO} points to {name!r}, outside the data set; fetch it again")
    return path / name
