"""The register of a run: which episodes of which data set it trains on and holds out, ``out/episodes.parquet``.

========  ======================================================================================
column    meaning
========  ======================================================================================
data      name of the data set
split     ``train`` or ``held out``
episode   id
frames    how many
times     seconds of each from the first
columns   JSON: what true values there are, ``{"action": [2]}`` for two numbers a frame
content   fingerprint of the file, or of the features made of it
actions   fingerprint of the true actions, where a stage trains on them
========  ======================================================================================

A run that has been begun holds to it: what is there is split as before, and an episode that is gone keeps its place, so
that all other clips keep their numbers; its own are skipped and counted like those of any file that breaks.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dila.errors import DilaError, first_line
from dila.files import replacing
from dila.shapes import Tensor
from dila.train.material import Material, Split

REGISTER = "episodes.parquet"
TRAIN, HELD_OUT = "train", "held out"


@dataclass(frozen=True)
class LostEpisode:
    """The place of an episode that is in the register and no longer in the data."""

    id: str
    times: np.ndarray
    columns: Mapping[str, np.ndarray]
    content: str = "lost"
    """As the register has it."""

    def read(self, frames: Sequence[int]) -> Tensor:
        """Never: raises DilaError."""
        raise DilaError("it is gone, changed or damaged since the run began")

    def fingerprint(self) -> str:
        """That of what was there."""
        return self.content


def write_register(out: Path, material: Material, *, actions: bool) -> None:
    """Write ``episodes.parquet``, whole or not at all; `actions`: whether a stage trains on them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(_rows(material))
    columns = {
        "data": pa.array([row[0] for row in rows], pa.string()),
        "split": pa.array([row[1] for row in rows], pa.string()),
        "episode": pa.array([row[2].id for row in rows], pa.string()),
        "frames": pa.array([len(row[2].times) for row in rows], pa.int64()),
        "times": pa.array([row[2].times for row in rows], pa.list_(pa.float64())),
        "columns": pa.array([_described(row[2].columns) for row in rows], pa.string()),
        "content": pa.array([row[2].fingerprint() for row in rows], pa.string()),
        "actions": pa.array([_hash(row[2]) if actions else None for row in rows], pa.string()),
    }
    with replacing(out / REGISTER, lasting=True) as partial:
        pq.write_table(pa.table(columns), partial, compression="zstd")


def hold_to_register(out: Path, material: Material, tolerate: float | None) -> Material:
    """The material as the register has it, with `LostEpisode` in the place of what is gone.

    Args:
        out: folder of the run.
        material: what the data now has.
        tolerate: share of the training episodes that may be gone; None before the first checkpoint, when none may.

    Raises:
        DilaError: no register that can be read, other data sets or episodes, or too many are gone or changed.
    """
    path = out / REGISTER
    if not path.is_file():
        raise DilaError(f"{path} is missing, without which the run cannot be resumed exactly; start in another folder")
    by_data: dict[str, list[dict[str, Any]]] = {}
    for row in _rows_of(path):
        by_data.setdefault(row["data"], []).append(row)
    if len(by_data) != len(material.splits):
        given = ", ".join(split.name for split in material.splits)
        raise DilaError(f"{out} was trained on {', '.join(by_data)}, not on {given}; give the same data")
    # By their order, not their names: a folder may have moved.
    splits = [_held(split, rows) for split, rows in zip(material.splits, by_data.values(), strict=True)]
    lost = [e.id for split in splits for e in split.train if isinstance(e, LostEpisode)]
    count = sum(len(split.train) for split in splits)
    if len(lost) > (tolerate or 0.0) * count:
        why = "before its first checkpoint" if tolerate is None else f"more than tolerate = {tolerate:g} allows"
        raise DilaError(
            f"{out} was trained on other episodes than the data now has: {len(lost)} of {count} are gone or changed, "
            f"the first {lost[0]}, {why}; give the same data, or start in another folder"
        )
    return material._replace(splits=tuple(splits))


def _rows_of(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DilaError(
            f"{path} is damaged ({first_line(error)}), without which the run cannot be resumed exactly; start in "
            "another folder"
        ) from error


def _rows(material: Material) -> Iterator[tuple[str, str, Any]]:
    for split in material.splits:
        for part, episodes in ((TRAIN, split.train), (HELD_OUT, split.held_out)):
            for episode in episodes:
                yield split.name, part, episode


def _described(columns: Mapping[str, np.ndarray]) -> str:
    return json.dumps({name: [str(values.dtype), *values.shape[1:]] for name, values in columns.items()})


def _hash(episode: Any) -> str | None:
    """Fingerprint of an episode's true actions."""
    if "action" not in episode.columns:
        return None
    return hashlib.sha256(np.ascontiguousarray(episode.columns["action"]).tobytes()).hexdigest()[:16]


def _is_as(row: Mapping[str, Any], there: Any) -> bool:
    """Whether an episode is what the register has; those of older versions say less."""
    return (
        np.array_equal(there.times, row["times"])
        and row.get("content") in (None, there.fingerprint())
        and row.get("actions") in (None, _hash(there))
    )


def _held(split: Split, rows: Sequence[dict[str, Any]]) -> Split:
    kept = {e.id: e for e in [*split.train, *split.held_out]}
    frames = {e.id: e for e in [*split.train_frames, *split.held_out_frames]}
    new = kept.keys() - {row["episode"] for row in rows}
    if new:
        raise DilaError(
            f"{split.name} has {len(new)} other episodes than the run was trained on, the first {min(new)}; give the "
            "same data, or start in another folder"
        )
    parts: dict[str, list[tuple[Any, Any]]] = {TRAIN: [], HELD_OUT: []}
    for row in rows:
        lost = _lost(row)
        there = kept.get(row["episode"])
        if there is None or not _is_as(row, there):
            there = lost  # gone, or other frames or actions under the old name
        parts[row["split"]].append((there, frames.get(row["episode"], lost) if there is not lost else lost))
    train, held = parts[TRAIN], parts[HELD_OUT]
    return Split(split.name, *([pair[i] for pair in part] for i in (0, 1) for part in (train, held)))


def _lost(row: Mapping[str, Any]) -> LostEpisode:
    times = np.asarray(row["times"], dtype=np.float64)
    columns = {
        name: np.broadcast_to(np.zeros((), dtype), (len(times), *shape))
        for name, (dtype, *shape) in json.loads(row["columns"]).items()
    }
    return LostEpisode(row["episode"], times, columns, row.get("content", "lost"))
