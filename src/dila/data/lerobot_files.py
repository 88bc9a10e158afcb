"""Parts of a LeRobot data set to be written: joined videos, tables of tasks and episodes, splits."""

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dila.data.video import address
from dila.errors import DilaError, first_line
from dila.files import replacing

KEEP = "restore it from a copy, or choose another folder"


def join_videos(target: Path, parts: Sequence[tuple[Path, int]]) -> None:
    """Concatenate mp4 files (path and number of frames of each) by shifting the times of their packets.

    Raises:
        DilaError: the files were encoded with different settings.
    """
    import av

    delays = [_delay(path) for path, _ in parts]
    with av.open(address(target), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream, header, frames = None, None, 0
        for (path, length), delay in zip(parts, delays, strict=True):
            with av.open(address(path)) as part:
                source = part.streams.video[0]
                stream = stream or container.add_stream_from_template(source)
                header = header or source.codec_context.extradata
                if source.codec_context.extradata != header:
                    raise DilaError(
                        f"{path} was encoded with settings that differ from the episodes before it; delete it and run "
                        "the same command again"
                    )
                shift = int(Fraction(frames) / (source.average_rate * source.time_base))  # pyright: ignore
                # All clips get the same decoding delay: a clip without B-frames would otherwise overlap the next one.
                wait = max(delays) - delay
                for packet in part.demux(source):
                    if packet.dts is None or packet.pts is None:
                        continue  # the empty packet at the end
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift - wait
                    packet.stream = stream
                    container.mux(packet)
            frames += length


def _delay(path: Path) -> int:
    """Return the ticks from the decoding to the presentation of the first frame: 0 if the clip has no B-frames."""
    import av

    with av.open(address(path)) as container:
        first = next(container.demux(container.streams.video[0]))
        return (first.pts or 0) - (first.dts or 0)


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """Write ``task_index``, with ``task`` as the index of the table, which needs the metadata of pandas."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = {"metadata": None}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", **column},
            {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", **column},
        ],
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    with replacing(path) as file:
        pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), file)


def tasks_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all tasks in the order of first occurrence, which is that of ``task_index``."""
    return list(dict.fromkeys(task for row in rows for task in row["tasks"]))


def splits_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the episodes of each split as ranges: ``0:50``, or ``0:50,60:70`` if later calls added episodes."""
    inside: dict[str, list[int]] = {}
    for row in rows:
        for split in row.get("splits", ("train",)):  # older data sets lack this column
            inside.setdefault(split, []).append(row["episode_index"])
    ranges: dict[str, str] = {}
    for split, numbers in inside.items():
        edges = [0, *(np.flatnonzero(np.diff(numbers) > 1) + 1).tolist(), len(numbers)]
        ranges[split] = ",".join(f"{numbers[a]}:{numbers[b - 1] + 1}" for a, b in pairwise(edges))
    return ranges or {"train": "0:0"}


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Read the rows of ``meta/episodes``, sorted by episode.

    Raises:
        DilaError: a file is damaged.
    """
    paths = sorted((out / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    return sorted((row for path in paths for row in _read_rows(path)), key=lambda row: row["episode_index"])


def _read_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DilaError(f"{path} cannot be read ({first_line(error)}); {KEEP}") from error
    if lacking := {"episode_index", "source", "length"} - set(table.column_names):
        raise DilaError(f"{path} has no column {', '.join(sorted(lacking))}; {KEEP}")
    return table.to_pylist()
