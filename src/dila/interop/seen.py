"""A record of a model's training data in its notes, which is kept when the model is packed, pushed or trained further.

::

    "trained": {"held_out": 0.1, "hashes": "0f1e2d3c4b5a6978..."}

``held_out`` is the share of held-out episodes; ``hashes`` concatenates 16 hexadecimal digits per training episode. They
are hashes of contents, so they do not reveal names, which may be private.
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
"""Maximum number of hashes kept. The lowest are kept: an unbiased sample, and consistent when records are merged."""
DIGITS = 16


class Seen(NamedTuple):
    """The record of a model's training data."""

    held_out: float
    hashes: frozenset[str]


def hash_content(fingerprint: str) -> str:
    """Return a short hash of an episode's fingerprint: `DIGITS` hexadecimal digits."""
    return hashlib.blake2b(fingerprint.encode(), digest_size=DIGITS // 2).hexdigest()


def seen_note(held_out: float, hashes: Iterable[str]) -> dict[str, Any]:
    """Return the note for a model that was trained on the episodes with these hashes."""
    return {NOTE: {"held_out": held_out, "hashes": "".join(sorted(set(hashes))[:MOST])}}


def carried_note(model: str | Path) -> dict[str, Any]:
    """Return the note for a model derived from another; empty if that has none."""
    seen = read_seen(model)
    return seen_note(*seen) if seen else {}


def read_seen(model: str | Path) -> Seen | None:
    """Read the record of a model, given as for `dila.interop.find.locate`; nothing is downloaded.

    Returns:
        None if the model has no record, or does not exist.
    """
    try:
        told = read_notes(locate(model, local_files_only=True)).get(NOTE)
    except (DilaError, AttributeError):  # no model, or notes that are not an object
        return None
    held_out, hashes = (told.get(key) for key in ("held_out", "hashes")) if isinstance(told, dict) else (None, None)
    if not isinstance(held_out, int | float) or not 0 <= held_out < 1 or not isinstance(hashes, str):
        return None
    return Seen(held_out, frozenset(hashes[i : i + DIGITS] for i in range(0, len(hashes), DIGITS)))
