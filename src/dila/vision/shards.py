"""Shards of the feature cache as they lie on disk: safetensors files, mapped into memory and read a few rows at a time.

`safetensors.safe_open` gives a whole tensor at a time, which for a clip of a long episode is far more than the clip.
The format (https://github.com/huggingface/safetensors) is plain enough to map: eight bytes of the header's length, the
header in JSON with type, shape and place of each tensor, the tensors.
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
except ImportError:  # of Windows
    resource = None

PATTERN = "shard-*.safetensors"
MAPPED = 1024
"""Shards mapped at once in a process at most; a map costs no memory but the pages that are read."""

UNTRACKED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
"""What has a map keep no file open; before Python 3.13 each keeps one."""

_HEADER = 100 * 2**20
_log = logging.getLogger(__name__)


class Shard:
    """A mapped file. Only the pages of the rows that are asked for are read from disk, and those of a run at once."""

    def __init__(self, path: Path):
        self.first, self.places = read_header(path)
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY, **UNTRACKED)
        # Otherwise the system reads megabytes ahead, of which a clip somewhere in a large cache needs nothing.
        self._advise("MADV_RANDOM", 0, len(self.map))
        self.raw = torch.frombuffer(self.map, dtype=torch.uint8)

    def rows(self, key: str, rows: np.ndarray) -> Tensor:
        """Some rows of a tensor, a copy in float32."""
        start, end = (self.first + offset for offset in self.places[key]["data_offsets"])
        shape = self.places[key]["shape"]
        size = (end - start) // max(1, shape[0])
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            if len(run):
                self._advise("MADV_WILLNEED", start + int(run[0]) * size, len(run) * size)
        return self.raw[start:end].view(torch.bfloat16).reshape(shape)[torch.from_numpy(rows)].float()

    def _advise(self, name: str, start: int, length: int) -> None:
        option = getattr(mmap, name, None)
        if option is None:  # Windows has no such advice to give
            return
        before = start % mmap.PAGESIZE
        self.map.madvise(option, start - before, min(length + before, len(self.map) - start + before))


def _bound() -> int:
    """How many to map: where each keeps a file open, a quarter of those that a process may have."""
    if UNTRACKED or resource is None:
        return MAPPED
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAPPED if most == resource.RLIM_INFINITY else max(1, min(MAPPED, most // 4))


@lru_cache(maxsize=_bound())
def open_shard(path: str) -> Shard:
    """Map a shard into memory.

    Raises:
        DilaError: it is missing, cut short or no safetensors file.
    """
    return Shard(Path(path))


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors of a safetensors file begin, and what is in there, as far as it is bf16.

    Raises:
        DilaError: it is missing, cut short or no safetensors file.
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
            raise ValueError("it is cut short")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        refuse_shortage(error)
        raise DilaError(f"the feature cache cannot read {path}: {error}; delete it and cache again") from error
    return 8 + length, places


def _check_place(key: str, place: Mapping[str, Any], first: int, size: int) -> None:
    """A mapped page past the end of a file would end the process, not raise."""
    shape, (start, end) = place["shape"], place["data_offsets"]
    if not shape or any(type(number) is not int or number < 0 for number in (*shape, start, end)):
        raise ValueError(f"{key} has no shape or place")
    if first + end > size:
        raise ValueError("it is cut short")
    width = torch.bfloat16.itemsize
    if end - start != prod(shape) * width or (first + start) % width:
        raise ValueError(f"{key} does not lie as its shape says")


def stored(folder: Path) -> dict[str, tuple[Path, int]]:
    """For each tensor in a cache folder its shard and number of rows; damaged shards are logged and left out."""
    found: dict[str, tuple[Path, int]] = {}
    for path in sorted(folder.glob(PATTERN)):
        try:
            places = read_header(path)[1]
        except DilaError as error:
            _log.warning("%s", error)
            continue
        found |= {key: (path, place["shape"][0]) for key, place in places.items()}
    return found
