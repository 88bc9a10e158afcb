"""Latent actions of a folder of videos, as one Parquet file.

=======  ===========================  =================================================================
column   type                         meaning
=======  ===========================  =================================================================
file     string                       id of the video: its path relative to the folder
frame    int64                        raw frame number in that video
time     double                       seconds of that frame from the video's first
next     int64                        raw number of the frame a stride later; or null
z        fixed_size_list<float>[Dz]   the latent action that moves this frame to that one; or null
valid    bool                         whether there is one
=======  ===========================  =================================================================

One row a sampled frame, every ``stride`` seconds, in order, so that ``next`` is the next row's; or, with
``every_frame``, one row a frame of the video, for policies that act at its rate. The last frames of an unbroken run
have none a stride later: there ``valid`` is false, ``next`` and ``z`` null. A video with one frame rate is unbroken; a
gap in its times ends a run.

The schema's metadata has, under the key ``dila``, JSON with ``model`` (the hash of `hash_world`), ``stride`` (seconds),
``frames`` (of a window, see `dila.imagine.windows`), ``every_frame``, ``encoder`` (its config) and ``dila_version``.

Work is done in parts, kept in a hidden folder beside the output until all are there. Called again after an
interruption, only parts that are missing, or whose videos or model have changed, are done; the rows are those that one
run would have given.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from dila.data import Corpus, open_corpus
from dila.data.labels import METADATA_KEY
from dila.errors import DilaError, refuse_shortage
from dila.files import alone, at_home, replacing, write_json, writing
from dila.imagine.cluster import EPISODES_PER_PART, Engine, count_frames, cut_parts, each_part
from dila.imagine.windows import CHUNK, Window, Windows, encode, infer_windows, sample
from dila.protocols import Episode
from dila.version import version
from dila.vision.encoder import FrozenEncoder
from dila.vision.stored import digest_tensors

if TYPE_CHECKING:
    from dila.imagine.world import World

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


class _Labels(NamedTuple):
    """Of one episode."""

    file: str
    frame: np.ndarray
    time: np.ndarray
    after: np.ndarray
    """The frame a stride later; -1 where there is none."""
    z: np.ndarray | None
    """None where it has no latent action, so that nothing tells how wide one is."""


def label(
    world: "World",
    path: str | Path,
    out: str | Path,
    *,
    fps: int | float | None = None,
    camera: str | None = None,
    every_frame: bool = False,
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
        every_frame: label each frame of a video, not one a stride; a stride of n frames costs up to n times as much.
        batch: windows that go through the model at once, across videos.
        part: videos between two saves at most, fewer where they are long (`dila.imagine.cluster.cut_parts`): what an
            interruption can lose, and what a worker does at a time.
        engine: ``local``, or ``ray`` for a cluster (`dila.imagine.cluster`), whose machines must all see ``out``'s
            folder and the videos.
        workers: processes on the cluster.
        progress: show a bar on standard error.

    Raises:
        DilaError: nothing to read there, no video that could be used, or ``out`` cannot be written, holds anything but
            labels, or is worked on by another process.
    """
    out = at_home(out)
    _check_free(out)
    if batch < 1 or part < 1:
        raise DilaError(f"batch = {batch} and part = {part} must be at least 1")
    corpus = open_corpus(path, fps, camera)
    folder = out.with_name(f".{out.name}.parts")
    with alone(out), writing(out):
        folder.mkdir(parents=True, exist_ok=True)
        about = _about(world, every_frame)
        cuts = cut_parts(corpus.episodes, part)
        firsts = accumulate(map(len, cuts[:-1]), initial=0)
        parts = [
            folder / f"{first:09d}-{_identity(about, batch, episodes)}.parquet"
            for first, episodes in zip(firsts, cuts, strict=True)
        ]
        todo = [(path, episodes) for path, episodes in zip(parts, cuts, strict=True) if not path.is_file()]
        frames = sum(count_frames(episodes) for _, episodes in todo)
        with tqdm(total=frames, unit="frame", desc="labelling", disable=not progress) as bar:
            local = engine == "local"  # where frames are counted as they pass
            work = _Part(world, batch, every_frame, bar.update if local else None)
            each_part(work, todo, engine, workers, lambda each: local or bar.update(count_frames(each[1])))
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
    every_frame: bool = False
    passed: Callable[[int], Any] | None = None
    """Told how many frames more have passed, each time that some have."""

    def to(self, device: str) -> None:
        self.world.to(device)

    def __call__(self, part: tuple[Path, Sequence[Episode]]) -> None:
        path, episodes = part
        if not path.is_file():
            _write(self.table(episodes), path)

    def table(self, episodes: Sequence[Episode]) -> Any:
        """The labels of these episodes; those that could not be read are in its metadata instead."""
        runs: dict[_Run, np.ndarray] = {}
        failed: dict[str, str] = {}
        found: dict[_Run, list[np.ndarray]] = {}
        with self.world.running():
            for run, z in infer_windows(self.world.model, self._windows(episodes, runs, failed), self.batch):
                found.setdefault(run, []).append(z[0].cpu().numpy())
        labels = []
        for place, episode in enumerate(episodes):
            its = [(index, found.get(run, [])) for run, index in runs.items() if run.episode == place]
            if episode.id not in failed:
                labels.append(_labels(episode, its, self.every_frame))
        return _table(labels, failed)

    def _windows(
        self, episodes: Sequence[Episode], runs: dict[_Run, np.ndarray], failed: dict[str, str]
    ) -> Iterator[tuple[_Run, Window]]:
        """Windows of all episodes, one after the other; notes the runs found and the episodes that cannot be read."""
        for place, episode in enumerate(episodes):
            try:
                sampled = sample(episode, self.world.stride, self.every_frame)
                mine = {_Run(place, number): index for number, index in enumerate(sampled)}
                runs |= mine
                yield from self._cut(episode, mine)
            except (DilaError, OSError) as error:
                refuse_shortage(error)
                failed[episode.id] = str(error)

    def _cut(self, episode: Episode, runs: dict[_Run, np.ndarray]) -> Iterator[tuple[_Run, Window]]:
        """Windows of the runs of one episode, whose frames are read and encoded once, in order."""
        frames = np.unique(np.concatenate([np.empty(0, np.int64), *runs.values()]))
        cuts = {run: Windows(self.world.frames) for run in runs}
        reached = 0
        for start, e in zip(range(0, len(frames), CHUNK), encode(self.world.encoder, episode, frames), strict=True):
            chunk = frames[start : start + CHUNK]
            for run, cut in list(cuts.items()):
                for window in cut.take(e[:, torch.from_numpy(np.isin(chunk, runs[run]))]):
                    yield run, window
                if runs[run][-1] <= chunk[-1]:
                    for window in cuts.pop(run).end():
                        yield run, window
            upto = len(episode.times) if chunk[-1] == frames[-1] else int(chunk[-1]) + 1
            if self.passed is not None:
                self.passed(upto - reached)
            reached = upto


def _labels(episode: Episode, runs: Sequence[tuple[np.ndarray, list[np.ndarray]]], every_frame: bool) -> _Labels:
    """Rows of one episode; of a frame that two runs have the first counts."""
    every = np.arange(len(episode.times))
    frames = every if every_frame else np.concatenate([index for index, _ in runs])
    after, z = np.full(len(every), -1), None
    for index, parts in runs:
        if not parts:
            continue
        told = np.concatenate(parts)
        z = np.zeros((len(every), told.shape[1]), np.float32) if z is None else z
        fresh = after[index[:-1]] < 0
        after[index[:-1][fresh]], z[index[:-1][fresh]] = index[1:][fresh], told[fresh]
    return _Labels(episode.id, frames, episode.times[frames], after[frames], None if z is None else z[frames])


def _table(labels: Sequence[_Labels], failed: dict[str, str]) -> Any:
    import pyarrow as pa

    width = next((each.z.shape[1] for each in labels if each.z is not None), 1)
    after = _joined([each.after for each in labels])
    z = _joined([np.zeros((len(each.frame), width), np.float32) if each.z is None else each.z for each in labels])
    columns = {
        "file": pa.array([each.file for each in labels for _ in each.frame], pa.string()),
        "frame": pa.array(_joined([each.frame for each in labels]), pa.int64()),
        "time": pa.array(_joined([each.time for each in labels]), pa.float64()),
        "next": pa.array(after, pa.int64(), mask=after < 0),
        "z": pa.FixedSizeListArray.from_arrays(pa.array(z.ravel(), pa.float32()), width, mask=pa.array(after < 0)),
        "valid": pa.array(after >= 0),
    }
    return pa.table(columns).replace_schema_metadata({_SKIPPED_KEY: json.dumps(failed)})


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)


def _assemble(corpus: Corpus, parts: Sequence[Path], out: Path, about: dict[str, Any]) -> Labelled:
    import pyarrow as pa
    import pyarrow.parquet as pq

    skipped = {s.path.as_posix(): s.reason for s in corpus.skipped}
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
        sidecar = out.with_suffix(".skipped.json")
        if skipped:
            write_json(sidecar, skipped)
        else:
            sidecar.unlink(missing_ok=True)
    return Labelled(out, len(files), rows, int(actions), skipped)


def _nothing(short: Sequence[str], skipped: dict[str, str]) -> str:
    """Why no video gave a single latent action."""
    if skipped:
        return f"none of the videos could be used, the first of {len(skipped)} because {next(iter(skipped.values()))}"
    return f"{short[0]} has fewer than two frames at the model's stride, and so has every other; give longer videos"


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
    except OSError as error:
        refuse_shortage(error)
        return "unreadable"


def _about(world: "World", every_frame: bool) -> dict[str, Any]:
    return {
        "model": hash_world(world),
        "stride": world.stride,
        "frames": world.frames,
        "every_frame": every_frame,
        "encoder": world.encoder.config(),
        "dila_version": version(),
    }


def hash_world(world: "World") -> str:
    """Short hash of all that the latent actions depend on: weights, encoder, statistics, stride, frames, precision."""
    eyes = world.encoder
    frozen = isinstance(eyes, FrozenEncoder)
    identity, weights = (eyes.identity(), eyes.weights()) if frozen else (eyes.config(), "")
    told = [type(world.model).__name__, identity, world.stride, world.frames, world.bf16, *filter(None, [weights])]
    tensors: dict[str, Any] = dict(world.model.state_dict()) if isinstance(world.model, nn.Module) else {}
    statistics = getattr(world.encoder, "statistics", None)
    if statistics is not None:
        tensors |= {"statistics.mean": statistics.mean, "statistics.var": statistics.var}
    return hash_of(told, tensors)


def hash_of(told: Any, tensors: Mapping[str, Any]) -> str:
    """Short hash of what JSON holds and of tensors."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(told, sort_keys=True).encode())
    digest_tensors(digest, tensors)
    return digest.hexdigest()
