"""What readers share: the things they yield beside episodes, columns that load when asked for, pictures from bytes.

A reader's ``episodes(path, name, fps)`` yields episodes, and between them what it has to say of them: `Skipped` (an
episode that cannot be read), `Names` (of the components of columns) and `Split` (one that the data set ships).
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
from dila.data.video import check_size, hash_file
from dila.errors import DilaError, refuse_shortage
from dila.shapes import Tensor, UInt8


@dataclass(frozen=True)
class Skipped:
    """An episode or a file that could not be read, or is passed over, and why."""

    path: Path
    reason: str
    fault: bool = True
    """False of what is merely no episode, though it looks like one."""


@dataclass(frozen=True)
class Names:
    """What the components of columns are called, in all episodes of one source."""

    columns: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Split:
    """Episodes that the data set itself puts into one part, such as ``train``."""

    name: str
    ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LazyColumns(Mapping[str, np.ndarray]):
    """Columns of an episode whose widths are known and whose values are read when they are first asked for.

    Args:
        widths: A of each column, by its name.
        load: gives all of them, ``[frames, A]`` each; can be pickled, and caches for itself.
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
"""Bytes of a JSON document that are read at most."""
MAX_TABLE = 8 * 2**30
"""Bytes of what is read of one table at a time, unpacked."""
NUMBER = 8
"""Bytes of a number at most: equal numbers take next to none in a file, and all of them in memory."""
Stamp = tuple[Path, int, int]


def stamp(path: Path) -> Stamp:
    """What is kept of a file is kept under this: path, time of change and size.

    Raises:
        DilaError: the file is gone.
    """
    try:
        told = path.stat()
    except OSError as error:
        raise DilaError(f"{path} is gone; put it back, or open the data set anew") from error
    return path, told.st_mtime_ns, told.st_size


def hash_shared(path: Path) -> str:
    """`dila.data.video.hash_file` of a file of many episodes, each of which asks for it.

    Raises:
        DilaError: the file is gone or cannot be read.
    """
    return _hash(stamp(path))


@lru_cache(maxsize=1024)
def _hash(version: Stamp) -> str:
    return hash_file(version[0])


def join(*parts: str) -> str:
    """Parts of an id with ``/`` between them; ``.`` and empty parts vanish."""
    return PurePosixPath(*parts).as_posix()


def read_text(path: Path) -> str:
    """The text of a file that is no larger than text gets.

    Raises:
        ValueError: it is, or is no UTF-8.
        OSError: it cannot be read.
    """
    if not path.is_file():  # reading from a pipe would wait for ever
        raise FileNotFoundError(2, "it is missing or no plain file")
    if path.stat().st_size > MAX_TEXT:
        raise ValueError(f"it has more than {MAX_TEXT:,} bytes")
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """The JSON document in a file.

    Raises:
        DilaError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DilaError(f"{path} is not readable JSON ({error}); replace or remove it") from error


def check_length(where: str, frames: int) -> int:
    """How many frames an episode is said to have, before anything is made for as many.

    Raises:
        DilaError: none, or more than any has.
    """
    if not 0 < frames <= MAX_FRAMES:
        raise DilaError(f"{where} claims {frames:,} frames; 1 to {MAX_FRAMES:,} can be")
    return frames


class _Enough(OSError):
    """More than the footer of a file was to be read."""


class _FooterAlone(io.FileIO):
    """A file that gives nothing any more once its footer has been read."""

    over = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.over:
            raise _Enough
        return super().read(size)


@lru_cache(maxsize=1024)
def check_footer(version: Stamp) -> None:
    """Whether the footer of a parquet file contradicts itself.

    Asked for the numbers of one column, PyArrow (26.0) lets what Arrow throws through, which ends the process. Where
    Arrow prepares to read the columns of all row groups, it catches it: so that is begun, of a file that ends there.

    Raises:
        OSError or pyarrow.ArrowException: it does, or is no footer.
    """
    import pyarrow.parquet as pq

    with _FooterAlone(version[0]) as file:
        parquet = pq.ParquetFile(file, pre_buffer=True)
        file.over = True
        with suppress(_Enough):
            next(parquet.iter_batches(batch_size=1, use_threads=False), None)


def check_table(path: Path, parquet: Any, columns: Sequence[str], groups: Sequence[int] | None) -> None:
    """How much reading these columns of a parquet file (or of some of its row groups) would give, before it is read.

    Raises:
        DilaError: more rows or bytes than fit.
    """
    meta, wanted = parquet.metadata, frozenset(columns)
    chosen = map(meta.row_group, range(meta.num_row_groups) if groups is None else groups)
    try:
        cells = [cell for group in chosen for cell in map(group.column, range(group.num_columns))]
        read = [cell for cell in cells if cell.path_in_schema.split(".")[0] in wanted]
        claimed = sum(max(0, cell.total_uncompressed_size, NUMBER * cell.num_values) for cell in read)
    except UnicodeDecodeError as error:
        raise DilaError(f"{path} names its columns in no readable text ({error}); write it anew") from error
    if not 0 <= meta.num_rows <= MAX_FRAMES or claimed > MAX_TABLE:
        raise DilaError(
            f"{path} claims {meta.num_rows:,} rows and {claimed:,} bytes, more than {MAX_FRAMES:,} or {MAX_TABLE:,}; "
            "split it"
        )


def open_table(path: Path) -> Any:
    """The parquet file, its footer read.

    Raises:
        DilaError: it is not a readable parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():  # reading from a pipe would wait for ever
        raise DilaError(f"{path} is missing or no plain file; fetch it again")
    try:
        check_footer(stamp(path))
        parquet = pq.ParquetFile(path)
        _ = parquet.schema_arrow.names  # decoded only now, where it is damaged
        return parquet
    except (pa.ArrowException, OSError, ValueError) as error:
        refuse_shortage(error)
        raise DilaError(f"{path} is not a readable parquet file: {error}") from error


def read_columns(path: Path, parquet: Any, columns: Sequence[str] | None, groups: Sequence[int] | None = None) -> Any:
    """Columns of the file, all when None, or of some of its row groups, as a table.

    Raises:
        DilaError: they are damaged, or claim more than fits.
    """
    import pyarrow as pa

    check_table(path, parquet, parquet.schema_arrow.names if columns is None else columns, groups)
    try:
        read = parquet.read if groups is None else partial(parquet.read_row_groups, list(groups))
        return read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
        raise DilaError(f"{path} is not a readable parquet file: {error}") from error


def rows(where: str, name: str, values: Any, floats: type = np.float32) -> np.ndarray:
    """One column as ``[frames, A]``: plain numbers become A = 1, deeper shapes are laid out flat, floats are `floats`.

    Raises:
        DilaError: not numbers, or rows of unequal length.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DilaError(f"{where} has rows of unequal length in {name!r}; every frame needs the same length") from error
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise DilaError(f"{where} holds no rows of numbers in {name!r} (its type is {array.dtype}); remove or fix it")
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
    """A column of a parquet file as `rows` lays it out.

    Raises:
        DilaError: not numbers, empty cells, or lists of unequal length.
    """
    import pyarrow.compute as pc

    if not is_numeric(column.type):
        raise DilaError(f"{path} holds {column.type} in column {name!r}; only numbers and lists of numbers can be used")
    values, width = column.combine_chunks(), 1
    while _is_list(values.type) and not values.null_count:
        lengths = pc.call_function("list_value_length", [values]).unique().to_pylist()
        if len(lengths) > 1:
            raise DilaError(f"{path} has lists of unequal length in column {name!r}; every frame needs the same length")
        values, width = values.flatten(), width * max(lengths, default=1)
    if values.null_count:
        raise DilaError(f"{path} has empty cells in column {name!r}; fill them, with NaN where nothing is known")
    return rows(str(path), name, values.to_numpy(zero_copy_only=False).reshape(len(column), width))


def runs(values: np.ndarray) -> dict[Any, tuple[int, int]]:
    """First row of each value that stands in rows one after the other, and the row after its last."""
    edges = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]])) if len(values) else [0]
    return {values[first]: (int(first), int(last)) for first, last in pairwise(edges)}


def action_rows(where: str, action: np.ndarray, frames: int) -> np.ndarray:
    """Actions of an episode as one row a frame: where the last frame has none, a row of NaN is added for it.

    Raises:
        DilaError: the rows are neither as many as the frames nor one fewer.
    """
    if len(action) == frames:
        return action
    if len(action) != frames - 1:
        raise DilaError(f"{where} has {len(action)} actions for {frames} frames; one a frame or one fewer is needed")
    return np.concatenate([action.astype(np.float32), np.full((1, *action.shape[1:]), np.nan, np.float32)])


@contextmanager
def opened_picture(source: Path | io.BytesIO, where: str) -> Iterator[Any]:
    """A JPEG or PNG as Pillow opens it, which is decoded inside.

    Raises:
        DilaError: it is missing, does not decode, or claims an absurd size.
    """
    from PIL import Image

    try:
        if isinstance(source, Path) and not source.is_file():  # reading from a pipe would wait for ever
            raise FileNotFoundError(source)
        # By contents: Pillow knows formats that start other programs, whatever the file is called.
        with Image.open(source, formats=("JPEG", "PNG")) as image:
            check_size(where, *image.size)
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        refuse_shortage(error)
        raise DilaError(f"{where} is not a readable image; replace or remove it") from error


def picture_from(data: bytes, where: str) -> np.ndarray:
    """RGB ``Y X 3`` of an encoded image; raises as `opened_picture`."""
    with opened_picture(io.BytesIO(data), where) as image:
        return upright(image)


def upright(image: Any) -> np.ndarray:
    """RGB ``Y X 3`` of a picture that Pillow opened, turned as its EXIF data says."""
    from PIL import Image

    turn = _turn(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip; of colours it takes the upper 8 itself
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    return np.asarray(image if turn is None else image.transpose(turn))


ASIDE = ("TRANSPOSE", "TRANSVERSE", "ROTATE_90", "ROTATE_270")
"""Turns after which what was a row is a column."""


def upright_size(image: Any) -> tuple[int, int]:
    """Rows and columns of `upright`, without decoding."""
    turn = _turn(image)
    return image.size if turn is not None and turn.name in ASIDE else image.size[::-1]


def _turn(image: Any) -> Any:
    """How EXIF data that stands before the pixels says that a picture is to be turned; None where it does not."""
    if "exif" not in image.info:
        return None
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    turns = (Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE,
             Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)  # fmt: skip
    try:
        return dict(enumerate(turns, 2)).get(image.getexif().get(Base.Orientation))
    except Exception:  # damaged tags raise whatever they like, and leave the picture what it is
        return None


def stacked(pictures: Sequence[np.ndarray], where: str) -> UInt8[Tensor, "N 3 Y X"]:
    """Pictures ``Y X 3`` as frames.

    Raises:
        DilaError: they are of different sizes.
    """
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise DilaError(f"{where} mixes pictures of the sizes {sorted(s[:2] for s in shapes)}; scale them to one size")
    out = room.make((len(pictures), *pictures[0].shape))
    np.stack(pictures, out=out)
    return torch.from_numpy(out).permute(0, 3, 1, 2)
