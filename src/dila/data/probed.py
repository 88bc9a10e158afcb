"""What was learnt of videos when a folder was first opened, kept for the next time.

To probe a video is a pass over its packets: a millisecond or two for a clip, minutes for the 220,000 of
Something-Something-V2. What it told is kept in one parquet file for each folder that was opened, in ``probed`` in the
cache folder, written whole. A video counts as known only under the very path, size and time of change that it was
probed with, by the same version of this file and of PyAV; all others are probed. What cannot be read is never kept.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from dila.data.packets import Packets
from dila.data.reading import MAX_TABLE
from dila.data.remote import cache_folder
from dila.data.video import PROBE, VideoInfo, probe_video
from dila.errors import DilaError
from dila.files import replacing

Key = tuple[str, int, int]
"""Path, time of change and size."""
VERSION = "2"
FEWEST = 16
"""Videos that were not known, from which on they are noted: a few are probed faster than a file is written."""


@contextmanager
def remembering(root: Path) -> Iterator[None]:
    """Inside, the video reader probes only files under `root` that are not known from an earlier time."""
    memory = _Memory(root)
    token = PROBE.set(memory.probe)
    seen_all = False
    try:
        yield
        seen_all = True
    finally:
        PROBE.reset(token)
        memory.save(seen_all)


class _Memory:
    """The videos of one folder, read when the first is asked for."""

    def __init__(self, root: Path):
        name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=12).hexdigest()
        self.file = cache_folder() / "probed" / f"{name}.parquet"
        self.known: dict[Key, dict[str, Any]] | None = None
        self.rows: dict[Key, dict[str, Any]] = {}
        self.new = 0

    def probe(self, path: Path) -> VideoInfo:
        """What is known of the file as it is now, or what probing tells.

        Raises:
            DilaError: the file is not a readable video.
        """
        try:
            told = path.stat()
        except OSError:
            return probe_video(path)  # which says what is wrong
        if self.known is None:
            self.known = {(r["path"], r["changed"], r["bytes"]): r for r in _read(self.file)}
        key = (os.fsdecode(path.resolve()), told.st_mtime_ns, told.st_size)
        if row := self.known.get(key):
            self.rows[key] = row
            return _info(row)
        info = probe_video(path)
        after = path.stat()
        # Names that are no text, and files that changed meanwhile, are probed each time.
        if (after.st_mtime_ns, after.st_size) == key[1:] and key[0].isprintable():
            self.rows[key] = _row(key, info)
            self.new += 1
        return info

    def save(self, seen_all: bool) -> None:
        """Write down what was asked for, if enough of it is new; and what was known, unless all has been seen."""
        if self.new < FEWEST:
            return
        rows = self.rows if seen_all else {**(self.known or {}), **self.rows}
        with suppress(OSError, DilaError):  # a cache folder that cannot be written costs time, and nothing else
            _write(self.file, list(rows.values()))


def _row(key: Key, info: VideoInfo) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(("path", "changed", "bytes"), key, strict=True))
    row |= {"height": info.size[0], "width": info.size[1], "tick": info.tick, "counted": info.pts is None}
    row |= {"times": info.times, "pts": info.pts, "keyframes": info.keyframes, "seeks": info.seeks}
    if (packets := info.packets) is not None:
        row |= {"codec": packets.codec, "extradata": packets.extradata, "colours": packets.colours,
                "turns": packets.turns, "offsets": packets.offsets, "sizes": packets.sizes}  # fmt: skip
    return row


def _info(row: dict[str, Any]) -> VideoInfo:
    packets = None
    if row["codec"] is not None:
        turns, stamp = _array(row["turns"]), (row["changed"], row["bytes"])
        where = (_array(row["offsets"]), _array(row["sizes"]))
        colours = tuple(_array(row["colours"]).tolist())
        packets = Packets(row["codec"], row["extradata"], colours, np.argsort(turns), turns, *where, stamp)
    pts = None if row["counted"] else _array(row["pts"])
    times, keyframes, seeks = (_array(row[name]) for name in ("times", "keyframes", "seeks"))
    return VideoInfo(times, pts, keyframes, seeks, (row["height"], row["width"]), row["tick"], packets)


def _array(cell: Any) -> np.ndarray:
    """Numbers of one cell; held as Arrow's until then, since Python's own take ten times the memory."""
    return cell.values.to_numpy()


def _schema() -> Any:
    import av
    import pyarrow as pa

    numbers = pa.list_(pa.int64())
    whole = {name: pa.int64() for name in ("changed", "bytes", "height", "width")}
    lists = dict.fromkeys(("pts", "keyframes", "seeks", "colours", "turns", "offsets", "sizes"), numbers)
    others = {"path": pa.string(), "tick": pa.float64(), "counted": pa.bool_(), "codec": pa.string(),
              "extradata": pa.binary(), "times": pa.list_(pa.float64())}  # fmt: skip
    return pa.schema([*{**whole, **lists, **others}.items()], {"version": f"{VERSION} {av.__version__}"})


def _read(file: Path) -> list[dict[str, Any]]:
    """The rows of an earlier time; none where there are none that can be used."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    version = schema.metadata[b"version"]
    try:
        if not file.is_file() or file.stat().st_size > MAX_TABLE:
            return []
        table = pq.read_table(file)
        if table.schema.names != schema.names or (table.schema.metadata or {}).get(b"version") != version:
            return []
    except (pa.ArrowException, OSError, ValueError, DilaError):  # half a file, say, of a disk that failed
        return []
    lists = {field.name for field in schema if pa.types.is_list(field.type)}
    columns = {
        name: list(table[name].combine_chunks()) if name in lists else table[name].to_pylist() for name in schema.names
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    columns = [pa.array([_plain(row.get(field.name)) for row in rows], field.type) for field in schema]
    with replacing(file, shared=True) as partial:
        pq.write_table(pa.table(columns, schema=schema), partial, compression="zstd")


def _plain(value: Any) -> Any:
    return value.as_py() if hasattr(value, "as_py") else value
