"""Shards of the feature cache: safetensors files, memory-mapped to read a few rows at a time.

`safetensors.safe_open` reads a whole tensor at a time, far more than a clip of a long episode. The format
(https://github.com/huggingface/safetensors) is simple to map: the length of the header in eight bytes, a JSON header
with dtype, shape and offsets of each tensor, and the tensors.
"""

import json
import logging
import mmap
import sys
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dila.errors import DilaError, refuse_shortage
from dila.shapes import Tensor

try:
    import resource
except ImportError:  # on Windows
    resource = None

PATTERN = "shard-*.safetensors"
MAPPED = 1024
"""Maximum number of shards mapped at once in a process; a map uses no memory except the pages that are read."""

UNTRACKED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
"""Makes a map keep no file open; before Python 3.13 each map keeps one."""

_HEADER = 100 * 2**20
_log = logging.getLogger(__name__)


class Shard:
    """A mapped file. Only the pages of requested rows are read from disk, consecutive rows together."""

    def __init__(self, path: Path):
        self.first, self.places = read_header(path)
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY, **UNTRACKED)
        # Otherwise the system reads megabytes ahead, which random clips of a large cache do not need.
        self._advise("MADV_RANDOM", 0, len(self.map))
        self.raw = torch.frombuffer(self.map, dtype=torch.uint8)

    def rows(self, key: str, rows: np.ndarray) -> Tensor:
        """Return rows of a tensor as a float32 copy."""
        start, end = (self.first + offset for offset in self.places[key]["data_offsets"])
        shape = self.places[key]["shape"]
        size = (end - start) // max(1, shape[0])
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            if len(run):
                self._advise("MADV_WILLNEED", start + int(run[0]) * size, len(run) * size)
        return self.raw[start:end].view(torch.bfloat16).reshape(shape)[torch.from_numpy(rows)].float()

    def _advise(self, name: str, start: int, length: int) -> None:
        option = getattr(mmap, name, None)
        if option is None:  # not available on Windows
            return
        before = start % mmap.PAGESIZE
        self.map.madvise(option, start - before, min(length + before, len(self.map) - start + before))


def _bound() -> int:
    """Return how many shards to map: if each keeps a file open, at most a quarter of the process's limit."""
    if UNTRACKED or resource is None:
        return MAPPED
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAPPED if most == resource.RLIM_INFINITY else max(1, min(MAPPED, most // 4))


@lru_cache(maxsize=_bound())
def open_shard(path: str) -> Shard:
    """Map a shard into memory.

    Raises:
        DilaError: the file is missing, truncated or not a safetensors file.
    """
    return Shard(Path(path))


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return the offset of the tensors of a safetensors file, and the header entries of those in bf16.

    Raises:
        DilaError: the file is missing, truncated or not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < _HEADER:
                raise ValueError("it has no header")
            places = json.loads(file.read(length))
            size = file.seek(0, 2)
        places = {key: place for key, place in places.items() if place.get("dtype") == "BF16"}
        for key, place in places.items():
            _check_place(key, place, 8 + length, size)
        if not places:
            raise ValueError("it is truncated")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        refuse_shortage(error)
        raise DilaError(f"the feature cache cannot read {path}: {error}; delete it and run again") from error
    return 8 + length, places


def _check_place(key: str, place: Mapping[str, Any], first: int, size: int) -> None:
    """Check a tensor's offsets: reading a mapped page beyond the end of a file would kill the process."""
    shape, (start, end) = place["shape"], place["data_offsets"]
    if not shape or any(type(number) is not int or number < 0 for number in (*shape, start, end)):
        raise ValueError(f"{key} has no valid shape or offsets")
    if first + end > size:
        raise ValueError("it is truncated")
    width = torch.bfloat16.itemsize
    if end - start != prod(shape) * width or (first + start) % width:
        raise ValueError(f"the offsets of {key} do not match its shape")


def stored(folder: Path) -> dict[str, tuple[Path, int]]:
    """Return shard and number of rows of each tensor in a cache folder; damaged shards are logged and omitted."""
    found: dict[str, tuple[Path, int]] = {}
    for path in sorted(folder.glob(PATTERN)):
        try:
            places = read_header(path)[1]
        except DilaError as error:
            _log.warning("%s", error)
            continue
        found |= {key: (path, place["shape"][0]) for key, place in places.items()}
    return found
