"""An HDF5 file whose heaps of strings, and of rows of any length, are looked at before HDF5 walks through them.

HDF5 (2.0.0) goes from object to object of a heap by the sizes that stand there, and for ever where one of them is
zero; nothing can stop it then, so the bytes are checked on their way to it. Layout: section III.E of
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, with lengths of eight bytes.
"""

import io
import os
import struct
from pathlib import Path
from typing import Any

from dila.errors import DilaError

SIGNATURE = b"GCOL"
HEAP = struct.Struct("<8xQ")
"""Its size, with this header."""
OBJECT = struct.Struct("<H6xQ")
"""Its number, 0 for what is free, and its size: of what is free with this header, of all else without."""
MAX_STEPS = 1_000_000
"""Objects walked through for one reader; a heap has at most 65,535."""


class HeapChecked(io.FileIO):
    """The file, for h5py to read through; `DilaError` instead of the bytes of a heap that has no end."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.path = path
        self.steps = 0
        self.seen: set[int] = set()

    def begin(self) -> None:
        """For another reader, who has as many steps; HDF5 asks again for what it does not remember."""
        self.steps = 0
        self.seen.clear()

    def readinto(self, buffer: Any, /) -> int | None:
        """Read on into `buffer`, as h5py asks for it."""
        first = self.tell()
        count = super().readinto(buffer)
        # A signature may begin in one read and end in the next.
        before = os.pread(self.fileno(), min(first, len(SIGNATURE) - 1), max(0, first - len(SIGNATURE) + 1))
        data = before + bytes(buffer[: count or 0])
        at = data.find(SIGNATURE)
        while at >= 0:
            self._walk(first - len(before) + at)
            at = data.find(SIGNATURE, at + 1)
        return count

    def _walk(self, heap: int) -> None:
        if heap in self.seen:
            return
        self.seen.add(heap)
        head = os.pread(self.fileno(), HEAP.size, heap)
        end = heap + HEAP.unpack(head)[0] if len(head) == HEAP.size else 0
        end = min(end, os.fstat(self.fileno()).st_size)
        at = heap + HEAP.size
        while at + OBJECT.size <= end:
            head = os.pread(self.fileno(), OBJECT.size, at)
            number, size = OBJECT.unpack(head)
            self.steps += 1
            if size >= 2**63 or (number == 0 and size == 0) or self.steps > MAX_STEPS:
                raise DilaError(f"{self.path} is not a readable HDF5 file (a heap at {at} has no end); replace it")
            at += size if number == 0 else OBJECT.size + (size + 7) // 8 * 8
