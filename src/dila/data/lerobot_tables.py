"""The tables of LeRobot data sets: numbers and encoded images, by episode. Kept for a few files a process."""

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dila.data.reading import Stamp, open_table, read_columns, rows, stamp
from dila.errors import DilaError

ADDRESS = frozenset({"timestamp", "frame_index", "episode_index", "index"})
"""Columns that only say where a row belongs."""


def columns(path: Path, episode: int, length: int, numbers: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Numeric columns of one episode, under the names that `numbers` gives them.

    Raises:
        DilaError: its rows are not exactly its frames.
    """
    stored = table(stamp(path))
    first, last = stored["rows"].get(episode, (0, 0))
    frame = stored["frame"][first:last]
    if last - first != length or not np.array_equal(frame, np.arange(length)):
        raise DilaError(
            f"{path} has {last - first} rows for episode {episode}, which has {length} frames; it needs one row for "
            f"each frame, numbered 0 to {length - 1}"
        )
    return {name: stored["columns"][key][first:last] for key, name in numbers.items()}


def stamps(path: Path, episode: int) -> np.ndarray | None:
    """Seconds of each frame of one episode as the table has them, NaN in empty cells; None where it has none."""
    stored = table(stamp(path))
    if stored["stamps"] is None:
        return None
    first, last = stored["rows"].get(episode, (0, 0))
    return np.array(stored["stamps"].slice(first, last - first).to_pylist(), dtype=np.float64).reshape(-1)


@lru_cache(maxsize=8)
def table(version: Stamp) -> dict[str, Any]:
    """Numbers of a data file, and where each of its episodes lies; a process keeps a few files."""
    path = version[0]
    parquet = open_table(path)
    wanted = [f.name for f in parquet.schema_arrow if _is_numeric(f.type)]
    read = read_columns(path, parquet, wanted)
    number = read["episode_index"].to_numpy()
    edges = np.flatnonzero(np.concatenate([[True], number[1:] != number[:-1], [True]])) if len(number) else [0]
    places = {int(number[a]): (int(a), int(b)) for a, b in pairwise(edges)}
    values = {name: _numbers(path, name, read[name]) for name in wanted if name not in ADDRESS}
    stamps = read["timestamp"] if "timestamp" in wanted else None
    return {"rows": places, "frame": read["frame_index"].to_numpy(), "columns": values, "stamps": stamps}


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
        lengths = pc.call_function("list_value_length", [values])
        if values.null_count or len(lengths.unique()) > 1:
            raise DilaError(f"{path} has lists of unequal length in column {name!r}; every frame needs the same length")
        values = values.flatten()
    if values.null_count:
        raise DilaError(f"{path} has empty cells in column {name!r}; fill them, with NaN where nothing is known")
    return rows(str(path), name, values.to_numpy(zero_copy_only=False).reshape(count, -1))


@lru_cache(maxsize=64)
def _group_edges(version: Stamp) -> np.ndarray:
    meta = open_table(version[0]).metadata
    return np.cumsum([0] + [meta.row_group(i).num_rows for i in range(meta.num_row_groups)])


def group_of(path: Path, row: int) -> tuple[int, int]:
    """The row group that holds a row, and the row's place in it."""
    edges = _group_edges(stamp(path))
    group = int(np.searchsorted(edges, row, side="right")) - 1
    return group, row - int(edges[group])


@lru_cache(maxsize=4)
def image_group(version: Stamp, column: str, group: int) -> Any:
    """Encoded images of one row group."""
    return read_columns(version[0], open_table(version[0]), [column], group)[column].combine_chunks()
