"""Upper bounds on model configs read from files, so that a damaged or malicious one cannot exhaust time or memory."""

from collections.abc import Mapping
from typing import Any

from dila.errors import DilaError

NUMBER = 2**20
"""Upper bound on any size, far above that of any trainable model."""
LAYERS = 256
"""Upper bound on the layers of one part: each takes time to build before the file's tensors are checked."""
ENTRIES = 64
DEEP = 8
COUNTED = ("depth", "blocks")
"""Suffixes of fields that count layers."""


def check_bounds(described: Any, where: str, mend: str = "the file is damaged or malicious", deep: int = DEEP) -> None:
    """Check every integer of a config in JSON; `mend` completes the error message.

    Raises:
        DilaError: a number is out of bounds; the message names its path.
    """
    if isinstance(described, Mapping | list):
        if len(described) > ENTRIES or deep == 0:
            raise DilaError(f"{where} has more entries or nesting levels than any model; {mend}")
        pairs = described.items() if isinstance(described, Mapping) else enumerate(described)
        for key, value in pairs:
            check_bounds(value, f"{where}.{key}", mend, deep - 1)
    elif isinstance(described, int):
        limit = LAYERS if where.rstrip("0123456789.").endswith(COUNTED) else NUMBER
        if not 0 <= described <= limit:
            raise DilaError(f"{where} = {str(described)[:40]} is not between 0 and {limit:,}; {mend}")
