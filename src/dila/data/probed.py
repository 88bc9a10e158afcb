"""Cache of `probe_video`, kept on disk from one opening of a folder to the next.

Probing a video is a pass over its packets: a millisecond or two for a clip, minutes for the 220,000 of
Something-Something-V2. The results are cached in one parquet file per opened folder, in ``probed`` in the cache folder,
written atomically. An entry is used only if path, size and modification time of the video are the same, and so are
the `VERSION` of this file and the version of PyAV. Videos that cannot be read are never cached.
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
"""Path, modification time and size."""
VERSION = "2"
FEWEST = 16
"""Minimum number of newly probed videos for which the cache is written: probing fewer is faster than writing."""


@contextmanager
def remembering(root: Path) -> Iterator[None]:
    """Context in which the video reader probes only files that are not in the cache of `root`."""
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
    """The cached probe results of one folder, loaded on first use."""

    def __init__(self, root: Path):
        name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=12).hexdigest()
        self.file = cache_folder() / "probed" / f"{name}.parquet"
        self.known: dict[Key, dict[str, Any]] | None = None
        self.rows: dict[Key, dict[str, Any]] = {}
        self.new = 0

    def probe(self, path: Path) -> VideoInfo:
        """Return the cached result if the file is unchanged, else probe it.

        Raises:
            DilaError: the file is not a readable video.
        """
        try:
            told = path.stat()
        except OSError:
            return probe_video(path)  # which reports what is wrong
        if self.known is None:
            self.known = {(r["path"], r["changed"], r["bytes"]): r for r in _read(self.file)}
        key = (os.fsdecode(path.resolve()), told.st_mtime_ns, told.st_size)
        if row := self.known.get(key):
            self.rows[key] = row
            return _info(row)
        info = probe_video(path)
        after = path.stat()
        # Paths that are not valid text, and files that changed during probing, are not cached.
        if (after.st_mtime_ns, after.st_size) == key[1:] and key[0].isprintable():
            self.rows[key] = _row(key, info)
            self.new += 1
        return info

    def save(self, seen_all: bool) -> None:
        """Write the cache if enough entries are new; unused old entries are dropped if `seen_all`."""
        if self.new < FEWEST:
            return
        rows = self.rows if seen_all else {**(self.known or {}), **self.rows}
        with suppress(OSError, DilaError):  # without a writable cache folder, videos are only probed again
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
    """Convert a list cell to an array; cells stay Arrow scalars until then, since Python lists take ten times more."""
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
    """Read the rows of the cache file; empty if it is missing, unreadable, or of another version."""
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
    except (pa.ArrowException, OSError, ValueError, DilaError):  # for example truncated after a disk failure
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
