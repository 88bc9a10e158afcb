"""What a model was trained on, in its notes: it goes wherever the model goes, packed, pushed or trained further.

::

    "trained": {"held_out": 0.1, "hashes": "0f1e2d3c4b5a6978..."}

``held_out`` is the share of the episodes held out, ``hashes`` 16 hexadecimal digits an episode that was trained on, one
after the other. They are of contents: names, which may be private, cannot be told from them.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from dila.errors import DilaError
from dila.interop.find import locate
from dila.interop.pretrained import read_notes

NOTE = "trained"
MOST = 4096
"""Hashes kept, the lowest: of more episodes an even choice, the same whatever they are joined with."""
DIGITS = 16


class Seen(NamedTuple):
    """What the notes of a model tell."""

    held_out: float
    hashes: frozenset[str]


def hash_content(fingerprint: str) -> str:
    """Short hash of an episode's fingerprint: `DIGITS` hexadecimal digits."""
    return hashlib.blake2b(fingerprint.encode(), digest_size=DIGITS // 2).hexdigest()


def seen_note(held_out: float, hashes: Iterable[str]) -> dict[str, Any]:
    """What joins the notes of a model that was trained on the episodes of these hashes."""
    return {NOTE: {"held_out": held_out, "hashes": "".join(sorted(set(hashes))[:MOST])}}


def carried_note(model: str | Path) -> dict[str, Any]:
    """What joins the notes of a model that was made of another; nothing where that says nothing."""
    seen = read_seen(model)
    return seen_note(*seen) if seen else {}


def read_seen(model: str | Path) -> Seen | None:
    """What a model, as `dila.interop.find.locate` takes it, says that it was trained on; nothing is downloaded.

    Returns:
        None where it says nothing, or is not there.
    """
    try:
        told = read_notes(locate(model, local_files_only=True)).get(NOTE)
    except (DilaError, AttributeError):  # no model, or notes that are no object
        return None
    held_out, hashes = (told.get(key) for key in ("held_out", "hashes")) if isinstance(told, dict) else (None, None)
    if not isinstance(held_out, int | float) or not 0 <= held_out < 1 or not isinstance(hashes, str):
        return None
    return Seen(held_out, frozenset(hashes[i : i + DIGITS] for i in range(0, len(hashes), DIGITS)))
