"""Latent actions of a folder of videos, as one Parquet file.

=======  ===========================  =================================================================
column   type                         meaning
=======  ===========================  =================================================================
file     string                       id of the video: its path relative to the folder
frame    int64                        raw frame number in that video
time     double                       seconds of that frame from the video's first
z        fixed_size_list<float>[Dz]   the latent action that moves this frame to the next row's; or null
valid    bool                         whether there is one
=======  ===========================  =================================================================

One row a sampled frame, every ``stride`` seconds, in order. The last row of an unbroken run has no next frame: there
``valid`` is false and ``z`` null. A video with one frame rate is one run; a gap in its times ends a run.

The schema's metadata has, under the key ``dila``, JSON with ``model`` (the hash of `hash_world`), ``stride`` (seconds),
``frames`` (of a window, see `dila.imagine.windows`), ``encoder`` (its config) and ``dila_version``.

Work is done in parts, kept in a hidden folder beside the output until all are there. Called again after an
interruption, only parts that are missing, or whose videos or model have changed, are done; the rows are those that one
run would have given.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from dila.data import Corpus, open_corpus
from dila.errors import DilaError
from dila.files import replacing, write_json, writing
from dila.imagine.cluster import Engine, each_part
from dila.imagine.windows import Window, encode, infer_windows, sample, windows
from dila.protocols import Episode
from dila.version import version

if TYPE_CHECKING:
    from dila.imagine.world import World

EPISODES_PER_PART = 32
METADATA_KEY = b"dila"
_SKIPPED_KEY = b"skipped"


class Labelled(NamedTuple):
    """What was written."""

    path: Path
    videos: int
    """Videos with at least one row."""
    rows: int
    actions: int
    """Rows with a latent action."""
    skipped: dict[str, str]
    """Videos that could not be used, with the reason; also in the sidecar ``<name>.skipped.json``, if there are any."""


class _Run(NamedTuple):
    """An unbroken run of sampled frames of one episode of a part."""

    episode: int
    number: int


def label(
    world: "World",
    path: str | Path,
    out: str | Path,
    *,
    fps: int | float | None = None,
    camera: str | None = None,
    batch: int = 8,
    part: int = EPISODES_PER_PART,
    engine: Engine = "local",
    workers: int = 2,
    progress: bool = True,
) -> Labelled:
    """Write the latent actions of every video under ``path`` (or of the one there) to the Parquet file ``out``.

    Args:
        world: the model with its encoder; its stride is the sampling.
        path: a video, a folder of images, or a folder with any number of them at any depth.
        out: the file to write; ends in ``.parquet``.
        fps: frames a second, instead of what the files say.
        camera: of episodes that several cameras saw, this one alone.
        batch: windows that go through the model at once, across videos.
        part: videos between two saves: what an interruption can lose, and what a worker does at a time.
        engine: ``local``, or ``ray`` for a cluster (`dila.imagine.cluster`), whose machines must all see ``out``'s
            folder and the videos.
        workers: processes on the cluster.
        progress: show a bar on standard error.

    Raises:
        DilaError: nothing to read there, no video that could be used, or ``out`` cannot be written or holds anything
            but labels.
    """
    out = Path(out)
    _check_free(out)
    if batch < 1 or part < 1:
        raise DilaError(f"batch = {batch} and part = {part} must be at least 1")
    corpus = open_corpus(path, fps, camera)
    folder = out.with_name(f".{out.name}.parts")
    with writing(out):
        folder.mkdir(parents=True, exist_ok=True)
        about = _about(world)
        cuts = [corpus.episodes[first : first + part] for first in range(0, len(corpus), part)]
        parts = [
            folder / f"{place * part:09d}-{_identity(about, batch, episodes)}.parquet"
            for place, episodes in enumerate(cuts)
        ]
        todo = [(path, episodes) for path, episodes in zip(parts, cuts, strict=True) if not path.is_file()]
        with tqdm(total=len(todo), unit="part", desc="labelling", disable=not progress) as bar:
            each_part(_Part(world, batch), todo, engine, workers, bar.update)
        labelled = _assemble(corpus, parts, out, about)
        shutil.rmtree(folder)
    return labelled


def _check_free(out: Path) -> None:
    """Labels may be written over, nothing else: the true actions of a corpus are a Parquet file as well."""
    if out.suffix != ".parquet":
        raise DilaError(f"{out} must end in .parquet")
    if out.exists() and not _holds_labels(out):
        raise DilaError(f"{out} is there and holds no latent actions of ours; give --out another name or remove it")


def _holds_labels(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return METADATA_KEY in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowInvalid):
        return False


class _Part(NamedTuple):
    """Labelling of some episodes, as it is sent to a worker."""

    world: "World"
    batch: int

    def to(self, device: str) -> None:
        heavy: list[Any] = [self.world.model, self.world.encoder]
        for part in heavy:
            if hasattr(part, "to"):
                part.to(device)

    def __call__(self, part: tuple[Path, Sequence[Episode]]) -> None:
        path, episodes = part
        if not path.is_file():
            _write(_label_part(self.world, episodes, self.batch), path)


def _label_part(world: "World", episodes: Sequence[Episode], batch: int) -> Any:
    """The table of these episodes; those that could not be read are in its metadata instead."""
    runs: dict[_Run, np.ndarray] = {}
    failed: dict[str, str] = {}
    found: dict[_Run, list[np.ndarray]] = {}
    with world.running():
        for run, z in infer_windows(world.model, _windows(world, episodes, runs, failed), batch):
            found.setdefault(run, []).append(z[0].cpu().numpy())
    rows = [
        _rows(episodes[run.episode], index, found.get(run, []))
        for run, index in runs.items()
        if episodes[run.episode].id not in failed
    ]
    return _table(rows, failed)


def _windows(
    world: "World", episodes: Sequence[Episode], runs: dict[_Run, np.ndarray], failed: dict[str, str]
) -> Iterator[tuple[_Run, Window]]:
    """Windows of all episodes, one after the other; notes the runs found and the episodes that cannot be read."""
    for place, episode in enumerate(episodes):
        try:
            for number, index in enumerate(sample(episode, world.stride)):
                run = _Run(place, number)
                runs[run] = index
                for window in windows(encode(world.encoder, episode, index), world.frames):
                    yield run, window
        except (DilaError, OSError) as error:
            failed[episode.id] = str(error)


def _rows(episode: Episode, index: np.ndarray, z: list[np.ndarray]) -> dict[str, Any]:
    return {"file": episode.id, "frame": index, "time": episode.times[index], "z": np.concatenate(z) if z else None}


def _table(rows: Sequence[dict[str, Any]], failed: dict[str, str]) -> Any:
    import pyarrow as pa

    width = next((row["z"].shape[1] for row in rows if row["z"] is not None), 1)
    frames = sum(len(row["frame"]) for row in rows)
    valid = np.zeros(frames, dtype=bool)
    z = np.zeros((frames, width), dtype=np.float32)
    start = 0
    for row in rows:
        if row["z"] is not None:
            valid[start : start + len(row["z"])] = True
            z[start : start + len(row["z"])] = row["z"]
        start += len(row["frame"])
    columns = {
        "file": pa.array([row["file"] for row in rows for _ in row["frame"]], pa.string()),
        "frame": pa.array(_joined([row["frame"] for row in rows]), pa.int64()),
        "time": pa.array(_joined([row["time"] for row in rows]), pa.float64()),
        "z": pa.FixedSizeListArray.from_arrays(pa.array(z.ravel()), width, mask=pa.array(~valid)),
        "valid": pa.array(valid),
    }
    return pa.table(columns).replace_schema_metadata({_SKIPPED_KEY: json.dumps(failed)})


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)


def _assemble(corpus: Corpus, parts: Sequence[Path], out: Path, about: dict[str, Any]) -> Labelled:
    import pyarrow as pa
    import pyarrow.parquet as pq

    skipped = {s.path.relative_to(corpus.root).as_posix(): s.reason for s in corpus.skipped}
    schemas = [pq.read_schema(path) for path in parts]
    for schema in schemas:
        skipped |= json.loads(schema.metadata[_SKIPPED_KEY])
    # A part without any action does not know how wide one is.
    widths = [schema.field("z").type.list_size for schema in schemas]
    schema = schemas[int(np.argmax(widths))].with_metadata({METADATA_KEY: json.dumps(about)})
    rows = actions = 0
    files: set[str] = set()
    with replacing(out) as partial:
        with pq.ParquetWriter(partial, schema) as writer:
            for path, width in zip(parts, widths, strict=True):
                table = pq.read_table(path)
                if width != max(widths):
                    empty = pa.nulls(len(table), schema.field("z").type)
                    table = table.set_column(table.column_names.index("z"), schema.field("z"), empty)
                writer.write_table(table.replace_schema_metadata(schema.metadata))
                rows, actions = rows + len(table), actions + table["valid"].to_numpy().sum()
                files.update(table["file"].to_pylist())
        if not actions:
            raise DilaError(_nothing(sorted(files), skipped))
        _write_skipped(out.with_suffix(".skipped.json"), skipped)
    return Labelled(out, len(files), rows, int(actions), skipped)


def _nothing(short: Sequence[str], skipped: dict[str, str]) -> str:
    """Why no video gave a single latent action."""
    if skipped:
        return f"none of the videos could be used, the first of {len(skipped)} because {next(iter(skipped.values()))}"
    return f"{short[0]} has fewer than two frames at the model's stride, and so has every other; give longer videos"


def _write_skipped(path: Path, skipped: dict[str, str]) -> None:
    if not skipped:
        path.unlink(missing_ok=True)
        return
    write_json(path, skipped)


def _write(table: Any, path: Path) -> None:
    import pyarrow.parquet as pq

    with replacing(path, shared=True) as partial:
        pq.write_table(table, partial)


def _identity(about: dict[str, Any], batch: int, episodes: Sequence[Episode]) -> str:
    """Hash of all that a part's rows depend on."""
    digest = hashlib.blake2b(json.dumps([about, batch], sort_keys=True).encode(), digest_size=12)
    for episode in episodes:
        digest.update(f"{episode.id}\n{_fingerprint(episode)}\n".encode())
        digest.update(np.ascontiguousarray(episode.times, dtype=np.float64).tobytes())
    return digest.hexdigest()


def _fingerprint(episode: Episode) -> str:
    try:
        return episode.fingerprint()
    except OSError:
        return "unreadable"


def _about(world: "World") -> dict[str, Any]:
    return {
        "model": hash_world(world),
        "stride": world.stride,
        "frames": world.frames,
        "encoder": world.encoder.config(),
        "dila_version": version(),
    }


def hash_world(world: "World") -> str:
    """Short hash of all that the latent actions depend on: weights, encoder, statistics, stride, frames, precision."""
    digest = hashlib.blake2b(digest_size=16)
    told = [type(world.model).__name__, world.encoder.config(), world.stride, world.frames, world.bf16]
    digest.update(json.dumps(told, sort_keys=True).encode())
    tensors: dict[str, Any] = dict(world.model.state_dict()) if isinstance(world.model, nn.Module) else {}
    statistics = getattr(world.encoder, "statistics", None)
    if statistics is not None:
        tensors |= {"statistics.mean": statistics.mean, "statistics.var": statistics.var}
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
