"""Register of a run, ``out/episodes.parquet``: the training and held-out episodes of each data set.

========  ======================================================================================
column    meaning
========  ======================================================================================
data      name of the data set
split     ``train`` or ``held out``
episode   id
frames    number of frames
times     timestamp of each frame in seconds from the first
columns   JSON: dtype and shape per frame of each true value, ``{"action": ["float32", 2]}``
content   fingerprint of the file, or of the features computed from it
file      fingerprint of the file; null if it vanished while the run began
place     ``data/recording``; for a converted data set, those of the original
actions   fingerprint of the true actions, if a stage trains on them
========  ======================================================================================

The metadata key ``before`` contains what the initial model of the run was trained on, in the format of
`dila.interop.seen`.

A resumed run follows the register: episodes are split as before, and a missing episode keeps its place, so that the
numbering of clips does not change. Its clips are skipped and counted like other unreadable clips.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dila.errors import DilaError, first_line
from dila.files import replacing
from dila.interop.seen import DIGITS, hash_content, read_seen, seen_note
from dila.shapes import Tensor
from dila.train.material import Material, Split

REGISTER = "episodes.parquet"
TRAIN, HELD_OUT = "train", "held out"
BEFORE = b"before"


class TrainedOn(NamedTuple):
    """Training episodes of a run according to its register; empty sets if there is no register."""

    places: frozenset[tuple[str, int]]
    """``data/id`` and ``data/recording``, each with the number of frames."""
    hashes: frozenset[str]
    """Content hashes, see `dila.interop.seen`; includes those of the initial model."""


@dataclass(frozen=True)
class LostEpisode:
    """Placeholder for an episode that is in the register but no longer in the data."""

    id: str
    times: np.ndarray
    columns: Mapping[str, np.ndarray]
    content: str = "lost"
    """Fingerprint in the register."""

    def read(self, frames: Sequence[int]) -> Tensor:
        """Raise `DilaError`."""
        raise DilaError("the episode was removed, changed or damaged since the run began")

    def fingerprint(self) -> str:
        """Fingerprint of the lost episode."""
        return self.content


def write_register(out: Path, material: Material, start: str | None = None, *, actions: bool) -> None:
    """Write ``episodes.parquet`` atomically, for a run that starts from the model `start`.

    With `actions`, a stage trains on true actions, and their fingerprints are stored.
    """
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
        "file": pa.array([_file(row[3]) for row in rows], pa.string()),
        "place": pa.array([_place(row[0], row[3]) for row in rows], pa.string()),
        "actions": pa.array([_hash(row[2]) if actions else None for row in rows], pa.string()),
    }
    before = read_seen(start) if start else None
    table = pa.table(columns).replace_schema_metadata({BEFORE: "".join(sorted(before.hashes)) if before else ""})
    with replacing(out / REGISTER, lasting=True) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_trained(out: Path) -> TrainedOn:
    """Read which episodes the run in a folder was trained on.

    A file on both sides of the split, as copies may be, counts as held out.
    """
    path = out / REGISTER
    if not path.is_file():
        return TrainedOn(frozenset(), frozenset())
    table = _table(path, {"data", "split", "episode", "frames", "file", "place"})
    rows = table.to_pylist()
    trained = [row for row in rows if row["split"] == TRAIN]
    ids = {(f"{row['data']}/{row['episode']}", row["frames"]) for row in trained}
    recordings = {(row["place"], row["frames"]) for row in trained if "place" in row}
    files = {
        part: {row["file"] for row in rows if row["split"] == part and row.get("file")} for part in (TRAIN, HELD_OUT)
    }
    told = (table.schema.metadata or {}).get(BEFORE, b"").decode()
    before = {told[i : i + DIGITS] for i in range(0, len(told), DIGITS)}
    return TrainedOn(
        frozenset(ids | recordings), frozenset(before.union(map(hash_content, files[TRAIN] - files[HELD_OUT])))
    )


def trained_note(out: Path, held_out: float) -> dict[str, Any]:
    """Notes on the training data for models of the run in a folder, see `dila.interop.seen`."""
    return seen_note(held_out, read_trained(out).hashes)


def hold_to_register(out: Path, material: Material, tolerate: float | None) -> Material:
    """Arrange the data as in the register, with a `LostEpisode` for each missing episode.

    Args:
        out: folder of the run.
        material: the current data.
        tolerate: share of the training episodes that may be missing; None, before the first checkpoint, allows none.

    Raises:
        DilaError: the register is missing or damaged, data sets or episodes were added, or too many are missing.
    """
    path = out / REGISTER
    if not path.is_file():
        raise DilaError(f"{path} is missing, so the run cannot be resumed exactly; start in another folder")
    by_data: dict[str, list[dict[str, Any]]] = {}
    for row in _table(path).to_pylist():
        by_data.setdefault(row["data"], []).append(row)
    if len(by_data) != len(material.splits):
        given = ", ".join(split.name for split in material.splits)
        raise DilaError(f"{out} was trained on {', '.join(by_data)}, not on {given}; give the same data")
    # Matched by order, not by name, because a folder may have been renamed.
    splits = [_held(split, rows) for split, rows in zip(material.splits, by_data.values(), strict=True)]
    lost = [e.id for split in splits for e in split.train if isinstance(e, LostEpisode)]
    count = sum(len(split.train) for split in splits)
    if len(lost) > (tolerate or 0.0) * count:
        why = "before its first checkpoint" if tolerate is None else f"more than tolerate = {tolerate:g} allows"
        raise DilaError(
            f"{out} was trained on other episodes than the data now has: {len(lost)} of {count} are missing or "
            f"changed, the first {lost[0]}, {why}; restore the data, or start in another folder"
        )
    return material._replace(splits=tuple(splits))


def _table(path: Path, wanted: set[str] | None = None) -> Any:
    """Read the register, or those of the wanted columns that it has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.ParquetFile(path)
        return stored.read(columns=None if wanted is None else sorted(wanted & set(stored.schema_arrow.names)))
    except (OSError, pa.ArrowException) as error:
        raise DilaError(
            f"{path} is damaged ({first_line(error)}), so the run cannot be resumed exactly; start in another folder"
        ) from error


def _rows(material: Material) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield data set, side of the split, episode, and the same episode of frames."""
    for split in material.splits:
        sides = ((TRAIN, split.train, split.train_frames), (HELD_OUT, split.held_out, split.held_out_frames))
        for part, episodes, frames in sides:
            for episode, seen in zip(episodes, frames, strict=True):
                yield split.name, part, episode, seen


def _file(episode: Any) -> str | None:
    with suppress(DilaError):
        return episode.fingerprint()
    return None


def _place(data: str, episode: Any) -> str:
    if origin := getattr(episode, "origin", None):
        return f"{Path(origin.data).name}/{origin.recording}"
    return f"{data}/{getattr(episode, 'recording', episode.id)}"


def _described(columns: Mapping[str, np.ndarray]) -> str:
    return json.dumps({name: [str(values.dtype), *values.shape[1:]] for name, values in columns.items()})


def _hash(episode: Any) -> str | None:
    """Fingerprint of an episode's true actions."""
    if "action" not in episode.columns:
        return None
    return hashlib.sha256(np.ascontiguousarray(episode.columns["action"]).tobytes()).hexdigest()[:16]


def _is_as(row: Mapping[str, Any], there: Any) -> bool:
    """Whether an episode matches its row; registers of older versions lack columns."""
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
            f"{split.name} has {len(new)} episodes that the run was not started with, the first {min(new)}; give the "
            "same data, or start in another folder"
        )
    parts: dict[str, list[tuple[Any, Any]]] = {TRAIN: [], HELD_OUT: []}
    for row in rows:
        lost = _lost(row)
        there = kept.get(row["episode"])
        if there is None or not _is_as(row, there):
            there = lost  # missing, or changed under the same name
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
