"""Reader of HDF5 files of robomimic, VP2 and LIBERO, of stable-worldmodel, and of RECON; reads only requested frames.

The layout of a file is recognised by its contents; see docs/data.md. Sources:
https://robomimic.github.io/docs/datasets/overview.html, https://github.com/s-tian/vp2,
https://github.com/Lifelong-Robot-Learning/LIBERO (``scripts/create_dataset.py``),
https://github.com/galilai-group/stable-worldmodel, https://sites.google.com/view/recon-robot.

Opening a file takes as long as reading eight small frames of it, so a few file handles stay open between reads. Each is
used by one reader at a time and only by the process that opened it: handles inherited by a fork return wrong data.
"""

import atexit
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dila.data.frames import natural_order
from dila.data.hdf5_heap import HeapChecked
from dila.data.kept import kept
from dila.data.reading import (
    LazyColumns,
    Names,
    Skipped,
    Split,
    Stamp,
    action_rows,
    check_length,
    hash_shared,
    join,
    picture_from,
    rows,
    stacked,
    stamp,
)
from dila.data.video import MAX_PIXELS
from dila.errors import DilaError, MissingExtra, check_inside, refuse_shortage
from dila.shapes import Tensor, UInt8

SUFFIXES = frozenset({".hdf5", ".h5"})
ROBOMIMIC_FPS = 20.0
"""Control rate of robosuite, unless ``env_args`` in the file states another."""
WORLDMODEL_FPS = 10.0
RECON_FPS = 4.0
KEPT_OPEN = 8
"""Maximum number of idle open files."""
MAX_CHUNK = 2**30
"""Maximum uncompressed bytes of a chunk: reading one row decompresses all of it."""
LEAST_SIDE = 16
"""Minimum side in pixels at which three-dimensional uint8 data is taken for grey pictures instead of numbers."""
Places = tuple[tuple[str, tuple[str, ...]], ...]
"""Columns, each with the HDF5 data sets that are concatenated into it."""
LIBERO = "macros_image_convention"
"""Attribute of LIBERO's files alone. Their frames follow the action and the state of their row; if it is "opengl", the
lowest row of pixels is stored first."""
ROBOMIMIC_COLUMNS = {"actions": "action", "states": "state", "rewards": "rewards", "dones": "dones"}
RECON_COLUMNS = {
    "action": ("commands/linear_velocity", "commands/angular_velocity"),
    "state": ("jackal/position", "jackal/yaw"),
    "latlong": ("gps/latlong",),
    "collision": ("collision/any",),
}


@dataclass(frozen=True, eq=False)
class Hdf5Episode:
    """One camera of one recording in an HDF5 file as a `dila.protocols.Episode`."""

    id: str
    recording: str
    """Id shared by all cameras of this recording; a split keeps them on one side."""
    camera: str
    path: Path
    dataset: str
    """Path of the HDF5 data set with the images."""
    first: int
    """Its row with frame 0."""
    times: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    upside_down: bool = False

    def read(self, frames: Sequence[int]) -> UInt8[Tensor, "N 3 Y X"]:
        """Read the frames with these indices, RGB; raises `DilaError` if the file is missing or damaged."""
        where = f"{self.path} ({self.dataset})"
        wanted = check_inside(where, frames, len(self.times))
        if not wanted:
            return self.read([0])[:0]
        with opened(self.path) as file:
            stored = _rows(own(self.path, file, self.dataset), [self.first + f for f in wanted])
        step = -1 if self.upside_down else 1
        return stacked([_picture(value, where)[::step] for value in stored], where)

    def fingerprint(self) -> str:
        """Hash the file (its size and three samples) and the position of the episode in it."""
        place = f"{self.dataset} {self.first} {len(self.times)}{' upside down' * self.upside_down}"
        told = f"{hash_shared(self.path)} {place}"
        return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


def claims(path: Path) -> bool:
    """Whether the path is a file with a suffix in `SUFFIXES`."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def episodes(path: Path, name: str, fps: int | float | None) -> Iterator[Hdf5Episode | Skipped | Names | Split]:
    """Yield every camera of every recording; `fps`, if given, overrides the rate of the file or layout.

    Raises:
        DilaError: the file is damaged or has an unknown layout.
    """
    with opened(path) as file:
        if "data" in file and any(key.startswith("demo") for key in file["data"]):
            yield from _robomimic(path, file, name, fps)
        elif "ep_len" in file and "ep_offset" in file:
            yield from _worldmodel(path, file, name, fps)
        elif "images" in file and "rgb_left" in file["images"]:
            yield from _recon(path, file, name, fps)
        else:
            raise DilaError(
                f"{path} has {sorted(file)[:8]}, which is not a known layout (robomimic: data/demo_0, "
                "stable-worldmodel: ep_len and ep_offset, RECON: images/rgb_left); see docs/data.md"
            )


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Context with the file open for reading; errors inside it become `DilaError`.

    Raises:
        MissingExtra: h5py is not installed.
        DilaError: the file is missing, damaged or truncated, or something in it cannot be read.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra(f"reading {path.name}", "h5py", "formats") from error
    if not path.is_file():
        raise DilaError(f"{path} no longer exists; restore it, or open the data set again")
    try:
        place = (os.getpid(), stamp(path))
        one = _idle.pop(place, None) or _open(h5py, path)
        one.stored.begin()
        try:
            yield one.file
        except BaseException:
            one.closing.close()
            raise
        _leave_open(place, one)
    # In a damaged file, anything may have an unexpected type, shape or member.
    except (
        OSError, KeyError, RuntimeError, TypeError, ValueError, AttributeError, IndexError, MemoryError, OverflowError,
    ) as error:  # fmt: skip
        if isinstance(error, OSError):  # not a MemoryError: a damaged file may declare any size
            refuse_shortage(error)
        packed = "plugin" in str(error) or "filter" in str(error)
        mend = "if it is compressed, pip install hdf5plugin" if packed else "replace or remove it"
        raise DilaError(f"{path} is not a readable HDF5 file ({error}); {mend}") from error


class _Open(NamedTuple):
    file: Any
    stored: HeapChecked
    closing: ExitStack


_idle: OrderedDict[tuple[int, Stamp], _Open] = OrderedDict()
"""Open files that are not in use, most recently used last."""


def _open(h5py: Any, path: Path) -> _Open:
    with suppress(ImportError):  # importing it registers its compression filters
        import hdf5plugin  # noqa: F401
    with ExitStack() as stack:
        stored = stack.enter_context(HeapChecked(path))
        file = stack.enter_context(h5py.File(stored, "r", locking=False))
        if file.id.get_create_plist().get_sizes() != (8, 8):
            raise DilaError(f"{path} has addresses or lengths that are not eight bytes; rewrite it with h5repack")
        return _Open(file, stored, stack.pop_all())


def _leave_open(place: tuple[int, Stamp], one: _Open) -> None:
    """Cache an open file; close a second handle of the same file and the least recently used files."""
    if another := _idle.pop(place, None):
        another.closing.close()
    _idle[place] = one
    while len(_idle) > KEPT_OPEN:
        _idle.popitem(last=False)[1].closing.close()


@atexit.register
def _close_all() -> None:
    while _idle:
        _idle.popitem()[1].closing.close()


def own(path: Path, file: Any, place: str) -> Any:
    """Return an HDF5 data set after checking that it is stored in this file, in chunks that fit into memory.

    HDF5 can link to other files by any path, so a file from elsewhere could expose other files of the user.

    Raises:
        DilaError: it is stored in another file, or its rows or chunks are too large.
    """
    return _checked(path, file, place, file[place])


def _checked(path: Path, file: Any, place: str, dataset: Any) -> Any:
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        raise DilaError(
            f"{path}: {place} is stored in another file, and such links are not followed; copy it in with h5repack"
        )
    chunk = prod(dataset.chunks or dataset.shape[1:]) * dataset.dtype.itemsize
    if chunk > MAX_CHUNK or (dataset.ndim >= 3 and prod(dataset.shape[1:3]) > MAX_PIXELS):
        raise DilaError(f"{path}: {place} declares rows or chunks of {chunk:,} bytes; store it in smaller ones")
    return dataset


def _robomimic(path: Path, file: Any, name: str, fps: int | float | None) -> Iterator[Any]:
    data = file["data"]
    rate, drawn = fps or _control_rate(data) or ROBOMIMIC_FPS, data.attrs.get(LIBERO)
    ids: dict[str, list[str]] = {}
    demos = (key for key in data if key.startswith("demo") or "actions" in getattr(data.get(key), "keys", tuple)())
    for demo in sorted(demos, key=natural_order):
        recording = join(name, demo)
        try:
            found = _demo(path, data[demo], f"data/{demo}", recording, rate, drawn)
        except DilaError as error:
            refuse_shortage(error)
            yield Skipped(path, f"{recording} is skipped: {error}")
            continue
        ids[demo] = [episode.id for episode in found]
        yield from found
    for key in file.get("mask", ()):
        check_length(f"{path}: mask/{key}", len(own(path, file, f"mask/{key}")))
        members = [value.decode() if isinstance(value, bytes) else str(value) for value in file["mask"][key][:]]
        yield Split(key, tuple(one for demo in members for one in ids.get(demo, ())))


def _demo(path: Path, group: Any, inside: str, recording: str, rate: float, drawn: str | None) -> list[Hdf5Episode]:
    file, obs = group.file, group.get("obs", {})
    observed = {key: obs[key] for key in obs}  # each is opened once, which takes longer than all uses of it below
    cameras = {key: stored for key, stored in observed.items() if _is_images(stored)}
    if not cameras:
        raise DilaError("it has no images under obs; render them first (robomimic: dataset_states_to_obs.py)")
    if "actions" not in group:
        raise DilaError("it has no 'actions'")
    for key, stored in cameras.items():
        _checked(path, file, f"{inside}/obs/{key}", stored)
    first = next(iter(cameras))
    count = check_length(f"{inside}/obs/{first}", len(cameras[first]))
    found = {column: (f"{inside}/{key}", group[key]) for key, column in ROBOMIMIC_COLUMNS.items() if key in group}
    low = (key for key in observed if key not in cameras and observed[key].ndim <= 2 and _is_numbers(observed[key]))
    found |= {key: (f"{inside}/obs/{key}", observed[key]) for key in low}
    for column, (place, stored) in found.items():
        _check_rows(column, place, stored, count)
    places = tuple((column, (place,)) for column, (place, _) in found.items())
    widths = {column: prod(stored.shape[1:]) for column, (_, stored) in found.items()}
    columns = LazyColumns(widths, partial(_columns, path, places, 0, count, drawn is not None))
    times, turned = np.arange(count) / rate, drawn == "opengl"
    if any(len(stored) != count for stored in cameras.values()):
        raise DilaError(f"its cameras {list(cameras)} have different numbers of frames")
    return [
        Hdf5Episode(join(recording, key), recording, key, path, f"{inside}/obs/{key}", 0, times, columns, turned)
        for key in cameras
    ]


def _control_rate(data: Any) -> float | None:
    """Return the control frequency from the attribute ``env_args``, or None."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        rate = float(json.loads(data.attrs["env_args"])["env_kwargs"]["control_freq"])
        return rate if 0 < rate < float("inf") else None
    return None


def _worldmodel(path: Path, file: Any, name: str, fps: int | float | None) -> Iterator[Any]:
    lengths, offsets = (_all(path, file, key) for key in ("ep_len", "ep_offset"))
    stored = {key: file[key] for key in file if key not in ("ep_len", "ep_offset")}
    columns = {key: one for key, one in stored.items() if hasattr(one, "shape")}
    images = [key for key, one in columns.items() if _is_images(one)]
    cameras = [key for key in images if key.startswith("pixels")] or images
    if not cameras:
        raise DilaError(f"{path} has no column of images, such as 'pixels'; record it with images")
    for key in cameras:
        _checked(path, file, key, columns[key])
    numbers = [key for key, one in columns.items() if one.ndim <= 2 and _is_numbers(one)]
    places = {("state" if key == "proprio" and "state" not in numbers else key): (key,) for key in numbers}
    there = min(len(columns[key]) for key in [*cameras, *numbers])
    widths = _widths(file, places)
    for number, (length, first) in enumerate(zip(lengths.tolist(), offsets.tolist(), strict=True)):
        recording = join(name, f"episode_{number:06d}")
        if first < 0 or length < 1 or first + length > there:
            yield Skipped(path, f"{recording} is skipped: some of its rows {first} to {first + length} are missing")
            continue
        check_length(f"{path}: {recording}", length)
        load = partial(_columns, path, tuple(places.items()), first, length)
        lazy = LazyColumns(widths, load)
        times = np.arange(length) / (fps or WORLDMODEL_FPS)
        for key in cameras:
            yield Hdf5Episode(join(recording, key), recording, key, path, key, first, times, lazy)


def _all(path: Path, file: Any, key: str) -> np.ndarray:
    """Read an HDF5 data set with one integer per episode."""
    stored = own(path, file, key)
    check_length(f"{path}: {key}", len(stored))
    if stored.ndim != 1 or stored.dtype.kind not in "iu":
        raise DilaError(f"{path}: {key} must have one integer per episode; write the file again")
    return stored[:].astype(np.int64)


def _recon(path: Path, file: Any, name: str, fps: int | float | None) -> Iterator[Any]:
    count = check_length(f"{path}: images/rgb_left", len(own(path, file, "images/rgb_left")))
    places = {c: parts for c, parts in RECON_COLUMNS.items() if all(part in file for part in parts)}
    for column, parts in places.items():
        for part in parts:
            _check_rows(column, part, file[part], count)
    columns = LazyColumns(_widths(file, places), partial(_columns, path, tuple(places.items()), 0, count))
    named = {"action": ("linear_velocity", "angular_velocity"), "state": ("x", "y", "z", "yaw")}
    yield Names({column: parts for column, parts in named.items() if column in places})
    times = np.arange(count) / (fps or RECON_FPS)
    yield Hdf5Episode(name, name, "rgb_left", path, "images/rgb_left", 0, times, columns)


def _check_rows(column: str, place: str, stored: Any, count: int) -> None:
    if len(stored) != count and not (column == "action" and len(stored) == count - 1):
        raise DilaError(f"{place} has {len(stored)} rows for {count} frames; it needs one per frame")


def _widths(file: Any, places: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return how many numbers each column has per frame."""
    return {column: sum(prod(file[part].shape[1:]) for part in parts) for column, parts in places.items()}


def _columns(path: Path, places: Places, first: int, count: int, late: bool = False) -> dict[str, np.ndarray]:
    return kept(_read_columns, stamp(path), places, first, count, late)


def _read_columns(version: Stamp, places: Places, first: int, count: int, late: bool) -> dict[str, np.ndarray]:
    path = version[0]
    with opened(path) as file:
        found = {
            column: np.concatenate(
                [rows(str(path), p, own(path, file, p)[first : first + count]) for p in parts], axis=1
            )
            for column, parts in places
        }
    if "action" in found:
        found["action"] = _onward(action_rows(str(path), found["action"], count))
    for column in {"action", "state"} & found.keys() if late else ():
        found[column] = np.concatenate([found[column][1:], np.full_like(found[column][:1], np.nan, np.float32)])
    return found


def _onward(action: np.ndarray) -> np.ndarray:
    """Return actions whose row f leads from frame f to f+1; if only the first row is NaN, the file stores f-1 to f."""
    if len(action) < 2 or not np.isnan(action[0]).all() or np.isnan(action[-1]).all():
        return action
    return np.concatenate([action[1:], action[:1]])


def _is_images(dataset: Any) -> bool:
    """Whether each row of an HDF5 data set is a picture: encoded, grey, or with channels."""
    shape = getattr(dataset, "shape", ())
    if len(shape) == 1:
        return (dataset.dtype.metadata or {}).get("vlen") == np.uint8
    grey = len(shape) == 3 and min(shape[1:]) >= LEAST_SIDE
    coloured = len(shape) == 4 and (shape[-1] in (1, 3, 4) or shape[1] in (1, 3))
    return (grey or coloured) and dataset.dtype == np.uint8


def _is_numbers(dataset: Any) -> bool:
    return dataset.ndim >= 1 and dataset.dtype.kind in "biuf"


def _rows(dataset: Any, wanted: list[int]) -> list[Any]:
    """Read the wanted rows, in one read if they are close together."""
    low, high = min(wanted), max(wanted)
    if high - low < 2 * len(wanted):
        block = dataset[low : high + 1]
        return [block[row - low] for row in wanted]
    return [dataset[row] for row in wanted]


def _picture(value: Any, where: str) -> np.ndarray:
    """Convert a row to RGB ``Y X 3``: pixels with channels first or last, grey pixels, or an encoded image."""
    if isinstance(value, np.ndarray) and value.ndim > 1:
        value = value if value.ndim == 3 else value[..., None]
        picture = value if value.shape[-1] in (1, 3, 4) else value.transpose(1, 2, 0)
        return np.ascontiguousarray(np.broadcast_to(picture[..., :3], (*picture.shape[:2], 3)))
    return picture_from(bytes(value), where)
