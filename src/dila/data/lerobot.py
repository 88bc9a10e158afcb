"""LeRobot data sets, v2.x (one parquet and one mp4 an episode) and v3.0 (many episodes a file), read without lerobot.

Each camera of each episode is an `Episode` with the id ``episode_000012/observation.images.front``. Nothing but the
tables of ``meta`` and the outermost sizes of the files is read at first; videos are read by time, tables when a column
is asked for. The layout is documented in docs/data.md; source: https://github.com/huggingface/lerobot.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dila.data.reading import (
    LazyColumns,
    Names,
    Skipped,
    Split,
    Stamp,
    check_inside,
    join,
    picture_from,
    read_json,
    rows,
    stacked,
    stamp,
)
from dila.data.seek import check_whole, read_at
from dila.data.video import hash_file
from dila.errors import DilaError
from dila.shapes import Tensor, UInt8

INFO = "meta/info.json"
RENAMED = {"action": "action", "observation.state": "state"}
ADDRESS = frozenset({"timestamp", "frame_index", "episode_index", "index"})
"""Columns that only say where a row belongs."""
NUMBERS = ("float", "int", "uint", "bool")


@dataclass(frozen=True, eq=False)
class LeRobotEpisode:
    """One camera of one recording as a `dila.protocols.Episode`."""

    id: str
    recording: str
    """The same for all cameras that saw this recording: what splits keep together."""
    camera: str
    """Key of the feature."""
    times: np.ndarray
    frames: "_Video | _Images"
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def read(self, frames: Sequence[int]) -> UInt8[Tensor, "N 3 Y X"]:
        """The frames with these indices, RGB; raises `DilaError` when a file is gone or does not decode there."""
        wanted = check_inside(f"{self.frames.path} ({self.id})", frames, len(self.times))
        return self.frames.read(wanted) if wanted else self.frames.read([0])[:0]

    def fingerprint(self) -> str:
        """Hash of the file (its size and three samples) and of the place of the episode in it."""
        told = f"{hash_file(self.frames.path)} {self.frames.place}"
        return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


class _Video(NamedTuple):
    """Frames that lie in an mp4 from `start` seconds on."""

    path: Path
    start: float
    fps: float

    @property
    def place(self) -> str:
        return f"{self.start:.6f}"

    def read(self, frames: list[int]) -> UInt8[Tensor, "N 3 Y X"]:
        return read_at(self.path, [self.start + f / self.fps for f in frames], 1 / self.fps)


class _Images(NamedTuple):
    """Frames that lie as encoded images in a column of a table, from row `start` on."""

    path: Path
    column: str
    episode: int

    @property
    def place(self) -> str:
        return f"{self.column} {self.episode}"

    def read(self, frames: list[int]) -> UInt8[Tensor, "N 3 Y X"]:
        first = int(_table(stamp(self.path))["rows"][self.episode][0])
        return stacked([self._one(first + f) for f in frames], str(self.path))

    def _one(self, row: int) -> np.ndarray:
        group, inside = _group_of(self.path, row)
        cell = _image_group(stamp(self.path), self.column, group)[inside].as_py() or {}
        data = cell if isinstance(cell, bytes) else cell.get("bytes")
        where = f"{self.path}, column {self.column}, row {row}"
        if not data:
            raise DilaError(f"{where} holds no image; images have to lie in the table itself")
        return picture_from(data, where)


class _Row(NamedTuple):
    """What ``meta`` says of one episode."""

    number: int
    length: int
    data: Path
    videos: dict[str, tuple[Path, float]]


def claims(path: Path) -> bool:
    """Whether this reader takes the path: a folder with ``meta/info.json``."""
    return (path / INFO).is_file()


def episodes(path: Path, name: str, fps: int | float | None) -> Iterator[LeRobotEpisode | Skipped | Names | Split]:
    """Every camera of every episode; `fps`, when given, replaces the data set's own rate in the times.

    Raises:
        DilaError: ``meta`` is damaged, of an unknown version, or declares no camera.
    """
    info = _info(path)
    cameras, numbers = _features(path, info)
    listed = _v3(path, info, cameras) if info["codebase_version"].startswith("v3") else _v2(path, info, cameras)
    yield Names(_names(info["features"], numbers))
    own, faults = float(info["fps"]), _Faults(listed, cameras, numbers)
    ids: dict[int, list[str]] = {}
    for row in sorted(listed, key=lambda r: r.number):
        recording = join(name, f"episode_{row.number:06d}")
        if reason := faults.of_table(row):
            yield Skipped(row.data, f"{recording} is left out: {reason}")
            continue
        times = np.arange(row.length) / (own if fps is None else fps)
        columns = LazyColumns(tuple(numbers.values()), partial(_columns, row.data, row.number, row.length))
        for camera, kind in cameras.items():
            if kind == "video":
                file, start = row.videos[camera]
                if reason := faults.of_video(file):
                    yield Skipped(file, f"{recording}/{camera} is left out: {reason}")
                    continue
                source: _Video | _Images = _Video(file, start, own)
            else:
                source = _Images(row.data, camera, row.number)
            episode = LeRobotEpisode(join(recording, camera), recording, camera, times, source, columns)
            ids.setdefault(row.number, []).append(episode.id)
            yield episode
    yield from _splits(path, info, ids)


class _Faults:
    """Looks at each file once; gives the sentence that says what is wrong with it, or None."""

    def __init__(self, listed: Sequence[_Row], cameras: Mapping[str, str], numbers: Mapping[str, str]):
        self.rows: Counter[Path] = Counter()
        for row in listed:
            self.rows[row.data] += row.length
        self.needed = [*numbers, *(key for key, kind in cameras.items() if kind == "image")]
        self.tables: dict[Path, str | None] = {}
        self.videos: dict[Path, str | None] = {}

    def of_table(self, row: _Row) -> str | None:
        if row.data not in self.tables:
            self.tables[row.data] = _sentence(_check_table, row.data, self.needed, self.rows[row.data])
        return self.tables[row.data]

    def of_video(self, file: Path) -> str | None:
        if file not in self.videos:
            self.videos[file] = _sentence(check_whole, file)
        return self.videos[file]


def _sentence(check: Any, *arguments: Any) -> str | None:
    try:
        check(*arguments)
    except DilaError as error:
        return str(error)
    return None


def _check_table(path: Path, needed: Sequence[str], count: int) -> None:
    parquet = _parquet(path)
    missing = [key for key in [*needed, "episode_index", "frame_index"] if key not in parquet.schema_arrow.names]
    if missing:
        raise DilaError(f"{path} has no column {missing[0]!r}, which {INFO} declares; fetch or convert it again")
    if parquet.metadata.num_rows != count:
        raise DilaError(f"{path} has {parquet.metadata.num_rows} rows for {count} frames; fetch or convert it again")


def _info(path: Path) -> dict[str, Any]:
    info = read_json(path / INFO)
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict) or not _positive(info.get("fps")):
        raise DilaError(f"{path / INFO} needs 'features' and an 'fps' above 0, as LeRobot writes it")
    version = str(info.get("codebase_version", ""))
    if not version.startswith(("v2", "v3")):
        raise DilaError(f"{path / INFO} says codebase_version = {version!r}; v2.0, v2.1 and v3.0 can be read")
    return info


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


def _features(path: Path, info: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Cameras with their kind (video or image), and keys of numeric columns with the names they get here."""
    features = info["features"]
    cameras = {
        key: feature["dtype"]
        for key, feature in features.items()
        if feature.get("dtype") in ("video", "image") and not _is_depth(feature)
    }
    if not cameras:
        raise DilaError(f"{path / INFO} declares no feature of the type video or image; there is nothing to see")
    numbers = {
        key: RENAMED.get(key, key)
        for key, feature in features.items()
        if str(feature.get("dtype")).startswith(NUMBERS) and key not in ADDRESS
    }
    return cameras, numbers


def _is_depth(feature: Mapping[str, Any]) -> bool:
    told = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(told.get("is_depth_map") or told.get("video.is_depth_map"))


def _names(features: Mapping[str, Any], numbers: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Component names, where the data set gives as many as the column has numbers."""
    found = {}
    for key, column in numbers.items():
        stored = features[key].get("names")
        parts = stored
        if isinstance(stored, dict):
            parts = [part for some in stored.values() for part in (some if isinstance(some, list) else [some])]
        if isinstance(parts, list) and len(parts) == int(np.prod(features[key].get("shape") or [1])):
            found[column] = tuple(map(str, parts))
    return found


def _v2(path: Path, info: Mapping[str, Any], cameras: Mapping[str, str]) -> list[_Row]:
    listing = path / "meta" / "episodes.jsonl"
    try:
        lines = [json.loads(line) for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        size = int(info.get("chunks_size") or 1000)
        return [_v2_row(path, info, cameras, int(x["episode_index"]), int(x["length"]), size) for x in lines]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DilaError(f"{listing} or {INFO} does not list the episodes as LeRobot v2 does: {error!r}") from error


def _v2_row(
    path: Path, info: Mapping[str, Any], cameras: Mapping[str, str], number: int, length: int, size: int
) -> _Row:
    place = {"episode_chunk": number // size, "episode_index": number}
    videos = {
        key: (_inside(path, info["video_path"].format(video_key=key, **place)), 0.0)
        for key, kind in cameras.items()
        if kind == "video"
    }
    return _Row(number, length, _inside(path, info["data_path"].format(**place)), videos)


def _v3(path: Path, info: Mapping[str, Any], cameras: Mapping[str, str]) -> list[_Row]:
    videos = [key for key, kind in cameras.items() if kind == "video"]
    keys = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    keys += [f"videos/{key}/{part}" for key in videos for part in ("chunk_index", "file_index", "from_timestamp")]
    files = sorted((path / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise DilaError(f"{path / 'meta' / 'episodes'} holds no table of the episodes; fetch the data set again")
    found: list[_Row] = []
    for file in files:
        parquet = _parquet(file)
        missing = [key for key in keys if key not in parquet.schema_arrow.names]
        if missing:
            raise DilaError(f"{file} has no column {missing[0]!r}, which LeRobot v3.0 needs; fetch it again")
        found += [_v3_row(path, info, videos, row) for row in parquet.read(columns=keys).to_pylist()]
    return found


def _v3_row(path: Path, info: Mapping[str, Any], videos: Sequence[str], row: Mapping[str, Any]) -> _Row:
    def place(prefix: str) -> dict[str, int]:
        return {part: int(row[f"{prefix}/{part}"]) for part in ("chunk_index", "file_index")}

    try:
        data = _inside(path, info["data_path"].format(**place("data")))
        files = {
            key: (
                _inside(path, info["video_path"].format(video_key=key, **place(f"videos/{key}"))),
                float(row[f"videos/{key}/from_timestamp"]),
            )
            for key in videos
        }
        return _Row(int(row["episode_index"]), int(row["length"]), data, files)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DilaError(f"{path / INFO} and meta/episodes do not fit together: {error!r}; fetch them again") from error


def _inside(path: Path, name: str) -> Path:
    """A file of the data set; what leads out of it is refused."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DilaError(f"{path / INFO} points to {name}, outside of the data set")
    return path / name


def _splits(path: Path, info: Mapping[str, Any], ids: Mapping[int, Sequence[str]]) -> Iterator[Split | Skipped]:
    for name, told in (info.get("splits") or {}).items():
        first, colon, last = str(told).partition(":")
        if not (colon and first.strip().isdecimal() and last.strip().isdecimal()):
            yield Skipped(path / INFO, f"split {name!r} is left out: {told!r} is not a range of episodes such as 0:50")
            continue
        inside = range(int(first), int(last))
        yield Split(name, tuple(one for number, some in ids.items() if number in inside for one in some))


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DilaError(f"{path} is not a readable parquet file: {error}") from error


def _columns(path: Path, episode: int, length: int) -> dict[str, np.ndarray]:
    """Numeric columns of one episode.

    Raises:
        DilaError: its rows are not exactly its frames.
    """
    table = _table(stamp(path))
    first, last = table["rows"].get(episode, (0, 0))
    frame = table["frame"][first:last]
    if last - first != length or not np.array_equal(frame, np.arange(length)):
        raise DilaError(
            f"{path} has {last - first} rows for episode {episode}, which has {length} frames; it needs one row for "
            f"each frame, numbered 0 to {length - 1}"
        )
    return {name: values[first:last] for name, values in table["columns"].items()}


@lru_cache(maxsize=16)
def _table(version: Stamp) -> dict[str, Any]:
    """Numbers of a data file, and where each of its episodes lies; a process keeps a few files."""
    import pyarrow as pa

    path = version[0]
    parquet = _parquet(path)
    wanted = [f.name for f in parquet.schema_arrow if _is_numeric(f.type)]
    try:
        table = parquet.read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise DilaError(f"{path} is not a readable parquet file: {error}") from error
    number = table["episode_index"].to_numpy()
    edges = np.flatnonzero(np.concatenate([[True], number[1:] != number[:-1], [True]])) if len(number) else [0]
    places = {int(number[a]): (int(a), int(b)) for a, b in pairwise(edges)}
    columns = {RENAMED.get(name, name): _numbers(path, name, table[name]) for name in wanted if name not in ADDRESS}
    return {"rows": places, "frame": table["frame_index"].to_numpy(), "columns": columns}


def _is_list(kind: Any) -> bool:
    import pyarrow.types as kinds

    return kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)


def _is_numeric(kind: Any) -> bool:
    import pyarrow.types as kinds

    while _is_list(kind):
        kind = kind.value_type
    return kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind)


def _numbers(path: Path, name: str, column: Any) -> np.ndarray:
    import pyarrow.compute as pc

    values, count = column.combine_chunks(), len(column)
    while _is_list(values.type):
        if values.null_count or len(pc.unique(pc.list_value_length(values))) > 1:
            raise DilaError(f"{path} has lists of unequal length in column {name!r}; every frame needs the same length")
        values = values.flatten()
    if values.null_count:
        raise DilaError(f"{path} has empty cells in column {name!r}; fill them, with NaN where nothing is known")
    return rows(str(path), name, values.to_numpy(zero_copy_only=False).reshape(count, -1))


@lru_cache(maxsize=64)
def _group_edges(version: Stamp) -> np.ndarray:
    meta = _parquet(version[0]).metadata
    return np.cumsum([0] + [meta.row_group(i).num_rows for i in range(meta.num_row_groups)])


def _group_of(path: Path, row: int) -> tuple[int, int]:
    """The row group that holds a row, and the row's place in it."""
    edges = _group_edges(stamp(path))
    group = int(np.searchsorted(edges, row, side="right")) - 1
    return group, row - int(edges[group])


@lru_cache(maxsize=4)
def _image_group(version: Stamp, column: str, group: int) -> Any:
    """Encoded images of one row group."""
    return _parquet(version[0]).read_row_group(group, columns=[column])[column].combine_chunks()
