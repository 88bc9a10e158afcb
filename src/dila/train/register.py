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
file      fingerprint of the file; null where it went while the run began
place     ``data/recording``; of a converted data set those of the original
actions   fingerprint of the true actions, where a stage trains on them
========  ======================================================================================

Its metadata has under ``before`` what the model that the run began from had been trained on, as `dila.interop.seen`
keeps it.

A run that has been begun holds to it: what is there is split as before, and an episode that is gone keeps its place, so
that all other clips keep their numbers; its own are skipped and counted like those of any file that breaks.
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
    """What a register tells of the episodes trained on; empty sets where there is none."""

    places: frozenset[tuple[str, int]]
    """``data/id`` and ``data/recording``, each with the number of frames."""
    hashes: frozenset[str]
    """Of contents, see `dila.interop.seen`; those of the model that the run began from as well."""


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


def write_register(out: Path, material: Material, start: str | None = None, *, actions: bool) -> None:
    """Write ``episodes.parquet``, whole or not at all, for a run that begins from the model `start`.

    With `actions` a stage trains on them.
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
    """What the run in a folder was trained on.

    A file that lies on both sides, as copies may, counts as held out.
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
    """What joins the notes of a model of the run in a folder, see `dila.interop.seen`."""
    return seen_note(held_out, read_trained(out).hashes)


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
    for row in _table(path).to_pylist():
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


def _table(path: Path, wanted: set[str] | None = None) -> Any:
    """The register, or those of the wanted columns that it has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.ParquetFile(path)
        return stored.read(columns=None if wanted is None else sorted(wanted & set(stored.schema_arrow.names)))
    except (OSError, pa.ArrowException) as error:
        raise DilaError(
            f"{path} is damaged ({first_line(error)}), without which the run cannot be resumed exactly; start in "
            "another folder"
        ) from error


def _rows(material: Material) -> Iterator[tuple[str, str, Any, Any]]:
    """Data set, side, episode, and the same with its frames."""
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
