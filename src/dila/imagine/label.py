"""Latent actions of a folder of videos, written to one Parquet file.

=======  ===========================  =================================================================
column   type                         meaning
=======  ===========================  =================================================================
file     string                       id of the video: its path relative to the folder
frame    int64                        raw frame number in that video
time     double                       seconds of that frame since the video's first
next     int64                        raw number of the frame one stride later; or null
z        fixed_size_list<float>[Dz]   latent action from this frame to the next; or null
valid    bool                         whether z exists
action   fixed_size_list<float>[nDa]  with ``to_action``: the real actions that z stands for; or null
=======  ===========================  =================================================================

There is one row per sampled frame, one every ``stride`` seconds, in order, so that ``next`` is the frame of the next
row. With ``every_frame`` there is one row per frame of the video, for policies that act at its frame rate. The last
frames of an unbroken run have no frame one stride later: ``valid`` is then false, and ``next`` and ``z`` are null. A
video with a constant frame rate is one run; a gap in its timestamps ends a run.

The schema's metadata has, under the key ``dila``, JSON with ``model`` (the hash from `hash_world`), ``stride``
(seconds), ``frames`` (per window, see `dila.imagine.windows`), ``every_frame``, ``encoder`` (its config) and
``dila_version``.

Work is split into parts, kept in a hidden folder beside the output until all are done. A run after an interruption
processes only parts that are missing, or whose videos or model have changed, and gives the same rows as one
uninterrupted run.
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
from dila.shapes import Float, Tensor
from dila.version import version
from dila.vision.encoder import FrozenEncoder
from dila.vision.stored import digest_tensors

if TYPE_CHECKING:
    from dila.imagine.world import World

_SKIPPED_KEY = b"skipped"
ToAction = Callable[[Float[Tensor, "N Dz"]], Float[Tensor, "N nDa"]]
"""Map from latent actions to real ones, on the CPU."""


class Labelled(NamedTuple):
    """Summary of what was written."""

    path: Path
    videos: int
    """Videos with at least one row."""
    rows: int
    actions: int
    """Rows with a latent action."""
    skipped: dict[str, str]
    """Videos that could not be used, with the reason; also written to ``<name>.skipped.json``, if there are any."""


class _Run(NamedTuple):
    """An unbroken run of sampled frames of one episode of a part."""

    episode: int
    number: int


class _Labels(NamedTuple):
    """Rows of one episode."""

    file: str
    frame: np.ndarray
    time: np.ndarray
    after: np.ndarray
    """The frame one stride later; -1 if there is none."""
    z: np.ndarray | None
    """None if the episode has no latent action, so that Dz is unknown."""


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
    to_action: ToAction | None = None,
) -> Labelled:
    """Write the latent actions of all videos under ``path`` to the Parquet file ``out``.

    Args:
        world: the model with its encoder; its stride determines the sampling.
        path: a video, a folder of images, or a folder with any number of them at any depth.
        out: file to write, ending in ``.parquet``.
        fps: frames per second, overrides what the files state.
        camera: use only this camera of episodes recorded by several.
        every_frame: label every frame of a video, not one per stride; a stride of n frames costs up to n times as much.
        batch: windows that go through the model at once, across videos.
        part: maximum number of videos between two saves, fewer if they are long (`dila.imagine.cluster.cut_parts`): the
            most that an interruption can lose, and the unit of work of a worker.
        engine: ``local``, or ``ray`` for a cluster (`dila.imagine.cluster`), whose machines must share the videos and
            the folder of ``out``.
        workers: processes on the cluster.
        progress: show a progress bar on standard error.
        to_action: map from z to real actions, written beside z, such as that of `dila.interop.actions.load_actions`.

    Raises:
        DilaError: no usable video; or ``out`` cannot be written, is not a file of labels, or is in use by another
            process.
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
            local = engine == "local"  # counts single frames; a cluster only whole parts
            work = _Part(world, batch, every_frame, bar.update if local else None)
            each_part(work, todo, engine, workers, lambda each: local or bar.update(count_frames(each[1])))
        labelled = _assemble(corpus, parts, out, about, to_action)
        shutil.rmtree(folder)
    return labelled


def _check_free(out: Path) -> None:
    """Allow overwriting labels but no other file: the true actions of a corpus are Parquet files too."""
    if out.suffix != ".parquet":
        raise DilaError(f"{out} must end in .parquet; rename the output")
    if out.exists() and not _holds_labels(out):
        raise DilaError(f"{out} exists but is not a file of latent actions; choose another --out or remove it")


def _holds_labels(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return METADATA_KEY in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowInvalid):
        return False


class _Part(NamedTuple):
    """Labels some episodes; sent to a worker."""

    world: "World"
    batch: int
    every_frame: bool = False
    passed: Callable[[int], Any] | None = None
    """Called with the number of further frames that were processed."""

    def to(self, device: str) -> None:
        self.world.to(device)

    def __call__(self, part: tuple[Path, Sequence[Episode]]) -> None:
        path, episodes = part
        if not path.is_file():
            _write(self.table(episodes), path)

    def table(self, episodes: Sequence[Episode]) -> Any:
        """Return the labels of these episodes; those that could not be read are listed in its metadata."""
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
        """Yield the windows of all episodes in order; record their runs, and the episodes that cannot be read."""
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
        """Yield the windows of one episode's runs; each of its frames is read and encoded once, in order."""
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
    """Build the rows of one episode; for a frame in two runs the first run counts."""
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


def _assemble(
    corpus: Corpus, parts: Sequence[Path], out: Path, about: dict[str, Any], to_action: ToAction | None
) -> Labelled:
    import pyarrow as pa
    import pyarrow.parquet as pq

    skipped = {s.path.as_posix(): s.reason for s in corpus.skipped}
    schemas = [pq.read_schema(path) for path in parts]
    for schema in schemas:
        skipped |= json.loads(schema.metadata[_SKIPPED_KEY])
    # A part without any action has an arbitrary width of z.
    widths = [schema.field("z").type.list_size for schema in schemas]
    schema = schemas[int(np.argmax(widths))].with_metadata({METADATA_KEY: json.dumps(about)})
    if to_action:
        width = to_action(torch.zeros(1, max(widths))).shape[1]
        schema = schema.append(pa.field("action", pa.list_(pa.float32(), width)))
    rows = actions = 0
    files: set[str] = set()
    with replacing(out) as partial:
        with pq.ParquetWriter(partial, schema) as writer:
            for path, width in zip(parts, widths, strict=True):
                table = pq.read_table(path)
                if width != max(widths):
                    empty = pa.nulls(len(table), schema.field("z").type)
                    table = table.set_column(table.column_names.index("z"), schema.field("z"), empty)
                if to_action:
                    table = table.append_column(schema.field("action"), _actions(table, to_action))
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


def _actions(table: Any, to_action: ToAction) -> Any:
    """Return the column ``action`` of a table of labels."""
    import pyarrow as pa

    valid = table["valid"].to_numpy()
    z = np.zeros((len(table), table.schema.field("z").type.list_size), np.float32)
    z[valid] = table["z"].combine_chunks().flatten().to_numpy().reshape(-1, z.shape[1])
    action = to_action(torch.from_numpy(z)).numpy()
    return pa.FixedSizeListArray.from_arrays(
        pa.array(action.ravel(), pa.float32()), action.shape[1], mask=pa.array(~valid)
    )


def _nothing(short: Sequence[str], skipped: dict[str, str]) -> str:
    """Say why there is no latent action in any video."""
    if skipped:
        return f"no video could be used; the first of {len(skipped)} was skipped because {next(iter(skipped.values()))}"
    return f"{short[0]} and all other videos have fewer than two frames at the model's stride; give longer videos"


def _write(table: Any, path: Path) -> None:
    import pyarrow.parquet as pq

    with replacing(path, shared=True) as partial:
        pq.write_table(table, partial)


def _identity(about: dict[str, Any], batch: int, episodes: Sequence[Episode]) -> str:
    """Hash of everything that determines the rows of a part."""
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
    """Short hash of what latent actions depend on: weights, encoder, statistics, stride, frames, precision."""
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
    """Short hash of a JSON value and of tensors."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(told, sort_keys=True).encode())
    digest_tensors(digest, tensors)
    return digest.hexdigest()
