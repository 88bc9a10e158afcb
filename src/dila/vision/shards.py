"""Shards of the feature cache as they lie on disk: safetensors files, mapped into memory and read a few rows at a time.

`safetensors.safe_open` gives a whole tensor at a time, which for a clip of a long episode is far more than the clip.
The format (https://github.com/huggingface/safetensors) is plain enough to map: eight bytes of the header's length, the
header in JSON with type, shape and place of each tensor, the tensors.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dila.errors import DilaError
from dila.shapes import Tensor

PATTERN = "shard-*.safetensors"
MAPPED = 1024
"""Shards mapped at once in a process; a map costs no memory but the pages that are read."""

_HEADER = 100 * 2**20
_log = logging.getLogger(__name__)


class Shard(NamedTuple):
    """A mapped file; tensors are views of it."""

    raw: Tensor
    places: Mapping[str, Any]

    def rows(self, key: str) -> Tensor:
        """A tensor (bf16) whose pages are read as they are indexed."""
        place = self.places[key]
        start, end = place["data_offsets"]
        return self.raw[start:end].view(torch.bfloat16).reshape(place["shape"])


@lru_cache(maxsize=MAPPED)
def open_shard(path: str) -> Shard:
    """Map a shard into memory.

    Raises:
        DilaError: it is missing, cut short or no safetensors file.
    """
    first, places = read_header(Path(path))
    size = max(place["data_offsets"][1] for place in places.values())
    return Shard(torch.from_file(path, shared=False, size=first + size, dtype=torch.uint8)[first:], places)


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
        # A mapped page past the end of a file would end the process, not raise.
        if not places or size < 8 + length + max(place["data_offsets"][1] for place in places.values()):
            raise ValueError("it is cut short")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DilaError(f"the feature cache cannot read {path}: {error}; delete it and cache again") from error
    return 8 + length, places


def stored(folder: Path) -> dict[str, tuple[Path, int]]:
    """For each tensor in a cache folder its shard and number of rows; damaged shards are logged and left out."""
    return dict(_stored(folder))


def _stored(folder: Path) -> Iterator[tuple[str, tuple[Path, int]]]:
    for path in sorted(folder.glob(PATTERN)):
        try:
            places = read_header(path)[1]
        except DilaError as error:
            _log.warning("%s", error)
            continue
        for key, place in places.items():
            yield key, (path, place["shape"][0])
