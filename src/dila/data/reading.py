"""Shared parts of the readers: what they yield besides episodes, lazy columns, parquet tables, and image decoding.

A reader's ``episodes(path, name, fps)`` yields episodes and, between them, `Skipped` (an episode that cannot be read),
`Names` (component names of columns) and `Split` (a split that the data set ships).
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from dila.data import room
from dila.data.packets import MAX_FRAMES
from dila.data.video import check_size
from dila.errors import DilaError, refuse_shortage
from dila.files import hash_file
from dila.shapes import Tensor, UInt8


@dataclass(frozen=True)
class Skipped:
    """An episode or a file that is not read, and why."""

    path: Path
    reason: str
    fault: bool = True
    """False if nothing is damaged: the path looks like an episode but is not one."""


@dataclass(frozen=True)
class Names:
    """Component names of columns, for all episodes of one source."""

    columns: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Split:
    """Ids of the episodes in one split that the data set ships, such as ``train``."""

    name: str
    ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LazyColumns(Mapping[str, np.ndarray]):
    """Columns of an episode whose widths are known and whose values are read on first access.

    Args:
        widths: A of each column, by name.
        load: returns all columns, ``[frames, A]`` each; must be picklable and do its own caching.
    """

    widths: Mapping[str, int]
    load: Callable[[], Mapping[str, np.ndarray]]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.widths:
            raise KeyError(name)
        return self.load()[name]

    def __contains__(self, name: object) -> bool:
        return name in self.widths

    def __iter__(self) -> Iterator[str]:
        return iter(self.widths)

    def __len__(self) -> int:
        return len(self.widths)


MAX_TEXT = 256 * 2**20
"""Maximum size of a JSON document, in bytes."""
MAX_TABLE = 8 * 2**30
"""Maximum uncompressed bytes that are read from one table at a time."""
NUMBER = 8
"""Upper bound on the bytes of a number in memory: compressed, equal numbers take almost no space in the file."""
Stamp = tuple[Path, int, int]


def stamp(path: Path) -> Stamp:
    """Return the cache key of a file: path, modification time and size.

    Raises:
        DilaError: the file is gone.
    """
    try:
        told = path.stat()
    except OSError as error:
        raise DilaError(f"{path} no longer exists; restore it, or open the data set again") from error
    return path, told.st_mtime_ns, told.st_size


def hash_shared(path: Path) -> str:
    """Return `dila.files.hash_file` of a file, cached because many episodes may share it.

    Raises:
        DilaError: the file is gone or cannot be read.
    """
    return _hash(stamp(path))


@lru_cache(maxsize=1024)
def _hash(version: Stamp) -> str:
    return hash_file(version[0])


def join(*parts: str) -> str:
    """Join the parts of an id with ``/``; ``.`` and empty parts are dropped."""
    return PurePosixPath(*parts).as_posix()


def read_text(path: Path) -> str:
    """Read a text file of at most `MAX_TEXT` bytes.

    Raises:
        ValueError: it is larger, or not UTF-8.
        OSError: it cannot be read.
    """
    if not path.is_file():  # reading from a pipe would block for ever
        raise FileNotFoundError(2, "it is missing or not a regular file")
    if path.stat().st_size > MAX_TEXT:
        raise ValueError(f"it has more than {MAX_TEXT:,} bytes")
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DilaError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DilaError(f"{path} is not readable JSON ({error}); replace or remove it") from error


def check_length(where: str, frames: int) -> int:
    """Return a declared number of frames after checking it, before memory is allocated for it.

    Raises:
        DilaError: it is not in 1 .. `MAX_FRAMES`.
    """
    if not 0 < frames <= MAX_FRAMES:
        raise DilaError(f"{where} declares {frames:,} frames; it must be 1 to {MAX_FRAMES:,}")
    return frames


class _Enough(OSError):
    """A read beyond the footer of a file."""


class _FooterAlone(io.FileIO):
    """A file that raises `_Enough` on every read after `over` is set."""

    over = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.over:
            raise _Enough
        return super().read(size)


@lru_cache(maxsize=1024)
def check_footer(version: Stamp) -> None:
    """Check that the footer of a parquet file is consistent.

    On an inconsistent footer, reading the metadata of a column in PyArrow (26.0) lets a C++ exception escape, which
    aborts the process. Preparing to read the columns of all row groups raises a Python error instead, so this starts
    such a read, on a file that stops after the footer.

    Raises:
        OSError or pyarrow.ArrowException: the footer is missing or inconsistent.
    """
    import pyarrow.parquet as pq

    with _FooterAlone(version[0]) as file:
        parquet = pq.ParquetFile(file, pre_buffer=True)
        file.over = True
        with suppress(_Enough):
            next(parquet.iter_batches(batch_size=1, use_threads=False), None)


def check_table(path: Path, parquet: Any, columns: Sequence[str], groups: Sequence[int] | None) -> None:
    """Check the declared size of these columns of a parquet file (or of some of its row groups) before reading them.

    Raises:
        DilaError: more than `MAX_FRAMES` rows or `MAX_TABLE` bytes.
    """
    meta, wanted = parquet.metadata, frozenset(columns)
    chosen = map(meta.row_group, range(meta.num_row_groups) if groups is None else groups)
    try:
        cells = [cell for group in chosen for cell in map(group.column, range(group.num_columns))]
        read = [cell for cell in cells if cell.path_in_schema.split(".")[0] in wanted]
        claimed = sum(max(0, cell.total_uncompressed_size, NUMBER * cell.num_values) for cell in read)
    except UnicodeDecodeError as error:
        raise DilaError(f"{path} has column names that are not UTF-8 ({error}); write it again") from error
    if not 0 <= meta.num_rows <= MAX_FRAMES or claimed > MAX_TABLE:
        raise DilaError(
            f"{path} declares {meta.num_rows:,} rows and {claimed:,} bytes; the limits are {MAX_FRAMES:,} rows and "
            f"{MAX_TABLE:,} bytes; split it"
        )


def open_table(path: Path) -> Any:
    """Open a parquet file and read its footer.

    Raises:
        DilaError: it is not a readable parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():  # reading from a pipe would block for ever
        raise DilaError(f"{path} is missing or not a regular file; fetch it again")
    try:
        check_footer(stamp(path))
        parquet = pq.ParquetFile(path)
        _ = parquet.schema_arrow.names  # decoded on first access, which fails if it is damaged
        return parquet
    except (pa.ArrowException, OSError, ValueError) as error:
        refuse_shortage(error)
        raise DilaError(f"{path} is not a readable parquet file: {error}") from error


def read_columns(path: Path, parquet: Any, columns: Sequence[str] | None, groups: Sequence[int] | None = None) -> Any:
    """Read columns (None: all) of a parquet file, or of some of its row groups, as a table.

    Raises:
        DilaError: they are damaged or too large.
    """
    import pyarrow as pa

    check_table(path, parquet, parquet.schema_arrow.names if columns is None else columns, groups)
    try:
        read = parquet.read if groups is None else partial(parquet.read_row_groups, list(groups))
        return read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
        raise DilaError(f"{path} is not a readable parquet file: {error}") from error


def rows(where: str, name: str, values: Any, floats: type = np.float32) -> np.ndarray:
    """Convert a column to ``[frames, A]``: scalars get A = 1, higher dimensions are flattened, floats become `floats`.

    Raises:
        DilaError: not numbers, or rows of unequal length.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DilaError(f"{where} has rows of unequal length in {name!r}; every frame needs the same length") from error
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise DilaError(f"{where} has no rows of numbers in {name!r} (its type is {array.dtype}); fix or remove it")
    array = array.reshape(len(array), -1) if array.size else array.reshape(len(array), 0)
    return array.astype(floats) if array.dtype.kind == "f" else array


def is_numeric(kind: Any) -> bool:
    """Whether a column of this Arrow type holds numbers, or lists of them to any depth."""
    import pyarrow.types as kinds

    while _is_list(kind):
        kind = kind.value_type
    return kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind)


def _is_list(kind: Any) -> bool:
    import pyarrow.types as kinds

    return kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)


def column_rows(path: Path, name: str, column: Any) -> np.ndarray:
    """Convert a column of a parquet file as `rows` does.

    Raises:
        DilaError: not numbers, null cells, or lists of unequal length.
    """
    import pyarrow.compute as pc

    if not is_numeric(column.type):
        raise DilaError(f"{path} has {column.type} in column {name!r}; only numbers and lists of numbers can be used")
    values, width = column.combine_chunks(), 1
    while _is_list(values.type) and not values.null_count:
        lengths = pc.call_function("list_value_length", [values]).unique().to_pylist()
        if len(lengths) > 1:
            raise DilaError(f"{path} has lists of unequal length in column {name!r}; every frame needs the same length")
        values, width = values.flatten(), width * max(lengths, default=1)
    if values.null_count:
        raise DilaError(f"{path} has null cells in column {name!r}; fill them, with NaN where the value is unknown")
    return rows(str(path), name, values.to_numpy(zero_copy_only=False).reshape(len(column), width))


def runs(values: np.ndarray) -> dict[Any, tuple[int, int]]:
    """Return the first row and the row after the last of each run of equal consecutive values."""
    edges = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]])) if len(values) else [0]
    return {values[first]: (int(first), int(last)) for first, last in pairwise(edges)}


def action_rows(where: str, action: np.ndarray, frames: int) -> np.ndarray:
    """Return the actions of an episode with one row per frame: if there is one row fewer, a row of NaN is appended.

    Raises:
        DilaError: the number of rows is neither the number of frames nor one fewer.
    """
    if len(action) == frames:
        return action
    if len(action) != frames - 1:
        raise DilaError(f"{where} has {len(action)} actions for {frames} frames; it needs one per frame, or one fewer")
    return np.concatenate([action.astype(np.float32), np.full((1, *action.shape[1:]), np.nan, np.float32)])


@contextmanager
def opened_picture(source: Path | io.BytesIO, where: str) -> Iterator[Any]:
    """Open a JPEG, PNG, WebP, BMP or TIFF with Pillow; decoding errors inside the context become `DilaError`.

    Raises:
        DilaError: it is missing, does not decode, declares an absurd size, has several pages, or has 32-bit pixels.
    """
    from PIL import Image

    try:
        if isinstance(source, Path) and not source.is_file():  # reading from a pipe would block for ever
            raise FileNotFoundError(source)
        # Pillow goes by content, whatever the suffix, and some of its formats start other programs.
        with Image.open(source, formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF")) as image:
            check_size(where, *image.size)
            if image.format in ("WEBP", "TIFF") and (getattr(image, "n_frames", 1) > 1 or image.mode in ("I", "F")):
                raise DilaError(f"{where} has several pages or 32-bit pixels; save each frame as an 8-bit picture")
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        refuse_shortage(error)
        raise DilaError(f"{where} is not a readable image; replace or remove it") from error


def picture_from(data: bytes, where: str) -> np.ndarray:
    """Decode an image to RGB ``Y X 3``; raises as `opened_picture`."""
    with opened_picture(io.BytesIO(data), where) as image:
        return upright(image)


def upright(image: Any) -> np.ndarray:
    """Return RGB ``Y X 3`` of a picture that Pillow opened, with its EXIF orientation applied."""
    from PIL import Image

    turn = _turn(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip; it scales 16-bit colours itself
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    return np.asarray(image if turn is None else image.transpose(turn))


ASIDE = ("TRANSPOSE", "TRANSVERSE", "ROTATE_90", "ROTATE_270")
"""Transpositions that swap rows and columns."""


def upright_size(image: Any) -> tuple[int, int]:
    """Return rows and columns of `upright` without decoding."""
    turn = _turn(image)
    return image.size if turn is not None and turn.name in ASIDE else image.size[::-1]


def _turn(image: Any) -> Any:
    """Return the transposition that the EXIF data before the pixels asks for, or None."""
    if "exif" not in image.info:
        return None
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    turns = (Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE,
             Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)  # fmt: skip
    try:
        return dict(enumerate(turns, 2)).get(image.getexif().get(Base.Orientation))
    except Exception:  # damaged tags may raise anything; the picture is then used as it is
        return None


def stacked(pictures: Sequence[np.ndarray], where: str) -> UInt8[Tensor, "N 3 Y X"]:
    """Stack pictures ``Y X 3`` into frames.

    Raises:
        DilaError: their sizes differ.
    """
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise DilaError(f"{where} has pictures of different sizes {sorted(s[:2] for s in shapes)}; scale them to one")
    out = room.make((len(pictures), *pictures[0].shape))
    np.stack(pictures, out=out)
    return torch.from_numpy(out).permute(0, 3, 1, 2)
