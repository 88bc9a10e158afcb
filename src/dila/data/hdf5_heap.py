"""File object for h5py that checks global heaps (strings and rows of variable length) before HDF5 walks them.

HDF5 (2.0.0) steps through the objects of a heap by their stored sizes, and loops forever, without a way to interrupt
it, if a size is zero. So heaps are checked as their bytes are read. Layout: section III.E of
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
"""Header of a heap: its size, including this header."""
OBJECT = struct.Struct("<H6xQ")
"""Header of an object: its number (0: free space) and its size, which includes this header for free space only."""
MAX_STEPS = 1_000_000
"""Maximum number of objects checked between two calls of `begin`; a heap has at most 65,535."""


class HeapChecked(io.FileIO):
    """File for h5py to read from; raises `DilaError` on a heap that HDF5 would walk forever."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.path = path
        self.steps = 0
        self.seen: set[int] = set()

    def begin(self) -> None:
        """Reset the count of steps, for the next use of the open file."""
        self.steps = 0
        self.seen.clear()

    def readinto(self, buffer: Any, /) -> int | None:
        """Read into `buffer` and check the heaps in it."""
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
                raise DilaError(f"{self.path} is not a readable HDF5 file (damaged heap at byte {at}); replace it")
            at += size if number == 0 else OBJECT.size + (size + 7) // 8 * 8
