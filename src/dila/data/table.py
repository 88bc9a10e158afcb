"""``actions.parquet``: the true actions and states of a corpus, one row per frame.

========  ==================  =====================================================================
column    type                meaning
========  ==================  =====================================================================
episode   string              id of the episode: its path relative to the folder of the table
frame     int                 0 .. frames-1 of that episode, each exactly once
others    number, bool, or    row f of ``action`` leads from frame f to f+1 (the effect of the last
          list of numbers     row is not seen); row f of any other column is the value at frame f
========  ==================  =====================================================================

The metadata of the schema may name the components of columns, as JSON under the key ``names``:
``{"action": ["x", "y"]}``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dila.data.reading import column_rows, open_table, read_columns, runs
from dila.errors import DilaError
from dila.files import replacing

TABLE = "actions.parquet"


def read_table(
    path: Path, lengths: Mapping[str, int]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, tuple[str, ...]]]:
    """Read the columns, as ``[frames, A]`` arrays, of the episodes in `lengths` (frames of each), and component names.

    A column of plain numbers has A = 1. Floating-point columns become float32. Episodes without rows are absent from
    the result; rows of other episodes are ignored.

    Raises:
        DilaError: the file is not a table, a column is missing or not numeric, lists have unequal length, or the rows
            of an episode do not match its frames exactly.
    """
    import pyarrow as pa

    table = read_columns(path, open_table(path), None)
    for needed in ("episode", "frame"):
        if needed not in table.column_names:
            raise DilaError(f"{path} has no column {needed!r}; see docs/data.md for its layout")
    if len(set(table.column_names)) < len(table.column_names):
        raise DilaError(f"{path} has two columns of the same name; see docs/data.md for its layout")
    if not pa.types.is_integer(table.schema.field("frame").type) or table["episode"].null_count:
        raise DilaError(
            f"{path} must have an 'episode' in every row and integers in 'frame'; see docs/data.md for its layout"
        )
    table = table.sort_by([("episode", "ascending"), ("frame", "ascending")])
    ids = np.array([str(name) for name in table["episode"].to_pylist()], dtype=object)
    frame = table["frame"].to_numpy()
    numbers = [name for name in table.column_names if name not in ("episode", "frame")]
    values = {name: column_rows(path, name, table[name]) for name in numbers}
    names = _names(path, table.schema.metadata or {}, values)
    columns = {}
    for name, (start, stop) in runs(ids).items():
        if name not in lengths:
            continue
        if stop - start != lengths[name] or not np.array_equal(frame[start:stop], np.arange(stop - start)):
            raise DilaError(
                f"{path} has {stop - start} rows for {name!r}, which has {lengths[name]} frames; it needs one row for "
                f"each frame, numbered 0 to {lengths[name] - 1}; docs/data.md has a script that resamples rows of "
                "another rate"
            )
        columns[name] = {column: array[start:stop] for column, array in values.items()}
    return columns, names


def count_rows(path: Path) -> dict[str, int]:
    """Count the rows of each episode in a table.

    Raises:
        DilaError: it cannot be read.
    """
    episodes = read_columns(path, open_table(path), ["episode"])["episode"]
    return {str(told["values"]): told["counts"] for told in episodes.value_counts().to_pylist()}


def write_table(
    path: Path, episodes: Mapping[str, Mapping[str, np.ndarray]], names: Mapping[str, tuple[str, ...]]
) -> None:
    """Write the columns (``[frames, A]`` each) of every episode atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lengths = [len(next(iter(columns.values()))) for columns in episodes.values()]
    data: dict[str, Any] = {
        "episode": pa.array([name for name, n in zip(episodes, lengths, strict=True) for _ in range(n)], pa.string()),
        "frame": pa.array(np.concatenate([np.arange(n) for n in lengths])),
    }
    for column in next(iter(episodes.values())):
        rows = np.concatenate([columns[column] for columns in episodes.values()])
        offsets = pa.array(np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32))
        data[column] = pa.ListArray.from_arrays(offsets, pa.array(rows.ravel()))
    table = pa.table(data).replace_schema_metadata({"names": json.dumps({k: list(v) for k, v in names.items()})})
    with replacing(path) as partial:
        pq.write_table(table, partial)


def _names(path: Path, metadata: Mapping[bytes, bytes], values: Mapping[str, np.ndarray]) -> dict[str, tuple[str, ...]]:
    try:
        stored = json.loads(metadata.get(b"names", b"{}"))
        names = {column: tuple(map(str, parts)) for column, parts in stored.items() if column in values}
    except (ValueError, AttributeError, TypeError) as error:
        raise DilaError(f"{path} has unreadable 'names' in the metadata of its schema: {error}") from error
    for column, parts in names.items():
        if len(parts) != values[column].shape[1]:
            raise DilaError(f"{path} names {len(parts)} components of {column!r}, which has {values[column].shape[1]}")
    return names
