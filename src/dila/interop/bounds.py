"""How large a model may be that a file describes: a config from elsewhere must not build for ever or fill memory."""

from collections.abc import Mapping
from typing import Any

from dila.errors import DilaError

NUMBER = 2**20
"""Any size: far more than any of a model that can be trained."""
LAYERS = 256
"""Layers of one part, each of which costs time to build before a tensor of the file is looked at."""
ENTRIES = 64
DEEP = 8
COUNTED = ("depth", "blocks")
"""How fields end that count layers."""


def check_bounds(described: Any, where: str, mend: str = "the file is damaged or harmful", deep: int = DEEP) -> None:
    """Look at every number of a config in JSON; `mend` ends the sentence of one that is refused.

    Raises:
        DilaError: one is out of all proportion; it is named with its path.
    """
    if isinstance(described, Mapping | list):
        if len(described) > ENTRIES or deep == 0:
            raise DilaError(f"{where} has more entries or levels than any model; {mend}")
        pairs = described.items() if isinstance(described, Mapping) else enumerate(described)
        for key, value in pairs:
            check_bounds(value, f"{where}.{key}", mend, deep - 1)
    elif isinstance(described, int):
        limit = LAYERS if where.rstrip("0123456789.").endswith(COUNTED) else NUMBER
        if not 0 <= described <= limit:
            raise DilaError(f"{where} = {str(described)[:40]} is not in 0 to {limit:,}; {mend}")
