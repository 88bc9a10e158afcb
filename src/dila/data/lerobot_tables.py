"""Reader of the tables of LeRobot data sets: numbers and encoded images by episode, cached by row groups."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dila.data.kept import kept
from dila.data.reading import Stamp, column_rows, is_numeric, open_table, read_columns, runs, stamp
from dila.errors import DilaError

ADDRESS = frozenset({"timestamp", "frame_index", "episode_index", "index"})
"""Columns that only locate a row."""


def columns(path: Path, episode: int, length: int, numbers: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Read the numeric columns of one episode; `numbers` maps their keys to column names.

    Raises:
        DilaError: the rows do not match the frames exactly.
    """
    stored, first, last = _around(path, episode)
    frame = stored["frame"][first:last]
    if last - first != length or not np.array_equal(frame, np.arange(length)):
        raise DilaError(
            f"{path} has {last - first} rows for episode {episode}, which has {length} frames; it needs one row for "
            f"each frame, numbered 0 to {length - 1}"
        )
    return {name: stored["columns"][key][first:last] for key, name in numbers.items()}


def stamps(path: Path, episode: int) -> np.ndarray | None:
    """Read the timestamps of one episode, in seconds, NaN in null cells; None if the table has no such column."""
    stored, first, last = _around(path, episode)
    if stored["stamps"] is None:
        return None
    return np.array(stored["stamps"].slice(first, last - first).to_pylist(), dtype=np.float64).reshape(-1)


def first_row(path: Path, episode: int) -> int:
    """Return the index of the first row of an episode in its file.

    Raises:
        DilaError: it has no rows.
    """
    stored, first, last = _around(path, episode)
    if first == last:
        raise DilaError(f"{path} no longer has rows of episode {episode}; open the data set again")
    return stored["first"] + first


def _around(path: Path, episode: int) -> tuple[dict[str, Any], int, int]:
    """Return the data of the row groups with an episode, and in it the episode's first row and row after the last."""
    version = stamp(path)
    places = kept(_places, version)
    low, high = 0, len(places["edges"]) - 1
    if run := places["rows"].get(episode):
        low, high = (np.searchsorted(places["edges"][:-1], [run[0], run[1] - 1], side="right") - [1, 0]).tolist()
    stored = kept(_numbers, version, low, high)
    return stored, *stored["rows"].get(episode, (0, 0))


def _places(version: Stamp) -> dict[str, Any]:
    """Return the first row of each row group of a file and, if there are several groups, the rows of each episode."""
    parquet = open_table(version[0])
    groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups)]
    rows = {}
    if len(groups) > 1:
        rows = runs(read_columns(version[0], parquet, ["episode_index"])["episode_index"].to_numpy())
    return {"edges": np.cumsum([0, *groups]), "rows": rows}


def _numbers(version: Stamp, low: int, high: int) -> dict[str, Any]:
    """Read the numeric columns of row groups `low` to `high` - 1, and the rows of each episode among them."""
    path = version[0]
    parquet = open_table(path)
    wanted = [f.name for f in parquet.schema_arrow if is_numeric(f.type)]
    read = read_columns(path, parquet, wanted, range(low, high))
    values = {name: column_rows(path, name, read[name]) for name in wanted if name not in ADDRESS}
    stamps = read["timestamp"] if "timestamp" in wanted else None
    rows, frame = runs(read["episode_index"].to_numpy()), read["frame_index"].to_numpy()
    first = int(kept(_places, version)["edges"][low])
    return {"first": first, "rows": rows, "frame": frame, "columns": values, "stamps": stamps}


def group_of(path: Path, row: int) -> tuple[int, int]:
    """Return the row group of a row, and the index of the row in it."""
    edges = kept(_places, stamp(path))["edges"]
    group = int(np.searchsorted(edges, row, side="right")) - 1
    return group, row - int(edges[group])


@lru_cache(maxsize=4)
def image_group(version: Stamp, column: str, group: int) -> Any:
    """Read the encoded images of one row group."""
    return read_columns(version[0], open_table(version[0]), [column], [group])[column].combine_chunks()
