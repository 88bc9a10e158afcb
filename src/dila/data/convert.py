"""Convert any corpus that `open_corpus` reads to a LeRobot data set (see `dila.data.lerobot_write`).

A LeRobot data set has one frame rate, the same cameras with one size each, and the same columns in all episodes.
Episodes that differ are skipped and listed with the reason. Nothing is resampled in time, because then the rows of
``action`` would no longer lead from one frame to the next. All cameras of a recording become one episode, which keeps
its tasks and splits.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dila.data.clips import resized
from dila.data.corpus import Corpus, Skipped, open_corpus
from dila.data.labels import COLUMN, VALID, read_about, with_column, with_labels
from dila.data.lerobot import claims
from dila.data.lerobot_meta import text_features
from dila.data.lerobot_write import (
    CAMERA,
    About,
    is_staged,
    publish,
    sources,
    stage_episode,
    staged_fingerprint,
)
from dila.data.motion import MotionLimits, judge, measure_motion
from dila.data.pool import run_jobs
from dila.data.rate import even_rate, stored_times
from dila.data.recording import begin
from dila.data.remote import is_remote
from dila.errors import DilaError, refuse_shortage
from dila.files import alone, at_home, write_json
from dila.protocols import Episode
from dila.shapes import Tensor

CHUNK_BYTES = 2**27
"""Maximum bytes of frames read at once."""
SKIPPED = "meta/skipped.json"
"""File in the result with the reason of each skipped episode."""
UNMOVED = {"static": "is static", "camera": "has a moving camera"}
"""Why a recording is skipped, by the result of `dila.data.motion.judge`."""


class Converted(NamedTuple):
    """Result of a conversion."""

    out: Path
    episodes: int
    skipped: tuple[Skipped, ...]
    """Episodes that are not in the result, and why; also written to `SKIPPED` in the result, if there are any."""
    readable: int
    """Number of recordings of the corpus that can be read."""
    left_out: int
    """Number of those that are not in the result."""
    dropped: tuple[str, ...]
    """Columns that are text or that some episodes lack."""
    labelled: tuple[int, int] | None = None
    """With `labels`: number of frames with a label, and of all frames."""
    paced: Mapping[int | float, int] = {}
    """With `fps`: number of recordings by the rate in their own files, if that differs."""


def convert(
    path: str | Path,
    out: str | Path,
    fps: int | float | None = None,
    size: int | None = None,
    task: str | None = None,
    workers: int = 1,
    progress: bool = True,
    *,
    camera: str | None = None,
    moving: bool = False,
    labels: str | Path | None = None,
) -> Converted:
    """Write a corpus as a LeRobot data set, version 3.0; the same call resumes an interrupted conversion.

    Args:
        path: as for `open_corpus`.
        out: folder of the data set.
        fps: declared frames a second, overriding the files; nothing is resampled. None uses the most common rate and
            skips episodes of other rates.
        size: resize frames to this many pixels a side (even), ignoring the aspect ratio. None uses the size of the
            first recording and skips recordings of other sizes.
        task: task description of all episodes. None uses the tasks of the source, or else the name of `path`.
        workers: number of processes.
        progress: show a progress bar.
        camera: keep only this camera of multi-camera recordings.
        moving: skip recordings that are static or whose camera moves, as judged by `dila.data.motion` on the first
            camera.
        labels: file written by ``dila label`` for these videos; it becomes two columns, see `dila.data.labels`. Of
            multi-camera recordings, the labels of the first camera that has any are used.

    Raises:
        DilaError: no episode can be converted, the labels are of other videos or frame times, or `out` lies in the
            corpus, has other files or episodes whose source has changed, or is in use by another process.
    """
    told, out = str(path) if is_remote(path) else str(at_home(path).resolve()), at_home(out)
    if workers < 1 or (size is not None and not (16 <= size <= 4096 and size % 2 == 0)):
        raise DilaError(f"workers = {workers} must be at least 1 and size = {size} even, from 16 to 4096")
    if out.resolve().is_relative_to(told):
        raise DilaError(f"{out} lies inside the corpus; choose another folder for the result")
    corpus = open_corpus(path, fps, camera)
    corpus = with_labels(corpus, labels) if labels else corpus
    rate, even, skipped = _even(corpus)
    recordings, odd = _recordings(even)
    skipped += odd
    if not recordings:
        raise DilaError(
            f"{path} has no usable episode ({len(skipped)} skipped); the first problem: {skipped[0].reason}"
        )
    sizes = {key: (size, size) if size else _size(e) for key, e in recordings[0].cameras.items()}
    recordings, labelled = _labelled(recordings) if labels else (recordings, None)
    columns, dropped = _common([r.first for r in recordings])
    # Size and columns are part of the settings, so that they cannot change when a grown corpus is converted again.
    alike = len(set(sizes.values())) == 1
    shape = list(next(iter(sizes.values()))) if alike else {key: list(each) for key, each in sizes.items()}
    settings = {"source": "convert", "path": told, "format": "lerobot", "rate": rate, "cameras": list(sizes)}
    settings |= {"task": task} if task else {}
    settings |= {"moving": asdict(MotionLimits())} if moving else {}
    settings |= {"labels": read_about(at_home(labels))} if labels else {}
    with alone(out):
        staging = begin(out, settings | {"size": shape, "columns": list(columns)})
        about = _abouts(corpus, recordings, task, Path(told).name, columns)
        done = sources(out)
        _check_unchanged(out, done, about)
        left = [(r, about[r.id]) for r in recordings if r.id not in done and not _is_staged(staging, about[r.id])]
        job = _Job(staging, rate, sizes, size is not None, columns, moving)
        for failed in run_jobs(job, left, workers, len(recordings), f"converting {Path(told).name}", progress):
            skipped += [failed] if failed else []
        names = {key: parts for key, parts in corpus.names.items() if key in columns}
        # Sorted by split, so that each split is one range of episodes.
        order = sorted(recordings, key=lambda r: _part(corpus, about[r.id]))
        publish(out, staging, [_name(r.id) for r in order], names, rate)
        # On file systems without locks, another process may have finished the conversion and removed the folder.
        shutil.rmtree(staging, ignore_errors=True)
        written = sources(out)
        if written:
            _write_skipped(out / SKIPPED, skipped)
    if not written:
        raise DilaError(
            f"{path} has no usable episode ({len(skipped)} skipped); the first problem: {skipped[0].reason}"
        )
    texts = text_features(corpus.root) if claims(corpus.root) else ()
    paced = _paced([r.first for r in recordings], rate) if fps else {}
    readable = {getattr(e, "recording", e.id) for e in corpus.episodes}
    left_out = len(readable - written.keys())
    return Converted(out, len(written), tuple(skipped), len(readable), left_out, (*dropped, *texts), labelled, paced)


def _write_skipped(path: Path, skipped: Sequence[Skipped]) -> None:
    if skipped:
        write_json(path, {one.path.as_posix(): one.reason for one in skipped})
    else:
        path.unlink(missing_ok=True)


class _Recording(NamedTuple):
    """One recording with all of its cameras."""

    id: str
    cameras: dict[str, Episode]
    """Episodes by the key of the feature that they become."""

    @property
    def first(self) -> Episode:
        return next(iter(self.cameras.values()))

    def with_column(self, name: str, values: np.ndarray) -> "_Recording":
        """Return the recording with a column added to its first camera."""
        key, first = next(iter(self.cameras.items()))
        return _Recording(self.id, {**self.cameras, key: with_column(first, name, values)})


class _Job(NamedTuple):
    """Callable that converts one recording. It is pickled for every call, so it has only what all recordings share."""

    staging: Path
    rate: int | float
    sizes: Mapping[str, tuple[int, int]]
    resize: bool
    columns: Sequence[str]
    moving: bool

    def __call__(self, one: tuple[_Recording, About]) -> Skipped | None:
        """Encode one recording into the staging folder, or return why it is skipped."""
        recording, about = one
        try:
            if self.moving and (verdict := judge(measure_motion(recording.first))):
                return Skipped(Path(recording.id), UNMOVED[verdict])
            columns = {name: recording.first.columns[name] for name in self.columns}
            cameras = {key: self._frames(e, self.sizes[key]) for key, e in recording.cameras.items()}
            stage_episode(self.staging, _name(recording.id), cameras, columns, self.rate, about)
        except DilaError as error:
            refuse_shortage(error)
            return Skipped(Path(recording.id), str(error))
        return None

    def _frames(self, episode: Episode, size: tuple[int, int]) -> Iterator[Tensor]:
        found = _size(episode)
        if found != size and not self.resize:
            raise DilaError(
                f"{episode.id} has frames of {found[1]} x {found[0]}, but the first episode has {size[1]} x {size[0]}; "
                "set --size"
            )
        chunk = max(16, CHUNK_BYTES // (3 * found[0] * found[1]))
        for start in range(0, len(episode.times), chunk):
            frames = episode.read(range(start, min(start + chunk, len(episode.times))))
            yield resized(frames, size)


def _name(recording: str) -> str:
    """Return the name of the staged files of a recording, which depends on its id only."""
    return hashlib.blake2b(recording.encode(), digest_size=12).hexdigest()


def _recordings(episodes: Sequence[Episode]) -> tuple[list[_Recording], list[Skipped]]:
    """Group episodes by recording; returns those with the most common set of cameras, and the others as skipped."""
    found: dict[str, _Recording] = {}
    for episode in episodes:
        camera = getattr(episode, "camera", None)
        recording = found.setdefault(getattr(episode, "recording", episode.id), _Recording("", {}))
        recording.cameras[_feature(camera) if camera else CAMERA] = episode
    all_of_them = [_Recording(name, recording.cameras) for name, recording in found.items()]
    common = Counter(tuple(r.cameras) for r in all_of_them).most_common(1)[0][0]
    kept, skipped = [], []
    for recording in all_of_them:
        if tuple(recording.cameras) != common:
            which = f"has the cameras {', '.join(recording.cameras)}, but most recordings have {', '.join(common)}"
            skipped.append(Skipped(Path(recording.id), f"{which}; set --camera to one that all have"))
        elif len({len(e.times) for e in recording.cameras.values()}) > 1:
            skipped.append(Skipped(Path(recording.id), "has cameras with different numbers of frames; set --camera"))
        elif unread := _unread(recording):
            skipped.append(unread)
        else:
            kept.append(recording)
    return kept, skipped


def _unread(recording: _Recording) -> Skipped | None:
    """Return why the columns of a recording cannot be read, else None."""
    try:
        dict(recording.first.columns)
    except DilaError as error:
        refuse_shortage(error)
        return Skipped(Path(recording.id), str(error))
    return None


def _labelled(recordings: Sequence[_Recording]) -> tuple[list[_Recording], tuple[int, int]]:
    """Give the first camera, whose columns are converted, the labels of the first camera that has any.

    Returns:
        the recordings, and the numbers of frames with a label and of all frames.

    Raises:
        DilaError: no camera has labels.
    """
    known = {key: sum(int(r.cameras[key].columns[VALID].sum()) for r in recordings) for key in recordings[0].cameras}
    source = next((key for key, count in known.items() if count), None)
    if source is None:
        raise DilaError("no frame to be converted has a label; label these videos, or convert the labelled ones")
    frames = sum(len(r.first.times) for r in recordings)
    labelled = [
        r.with_column(COLUMN, r.cameras[source].columns[COLUMN]).with_column(VALID, r.cameras[source].columns[VALID])
        for r in recordings
    ]
    return labelled, (known[source], frames)


def _feature(camera: str) -> str:
    """Return the feature key of a camera; LeRobot needs the prefix and does not allow slashes."""
    name = camera.replace("/", ".")
    return name if name.startswith("observation.image") else f"observation.images.{name}"


def _check_unchanged(out: Path, done: Mapping[str, str | None], about: Mapping[str, About]) -> None:
    """Check that the sources of the episodes in `out` have not changed; older data sets store no fingerprints.

    Raises:
        DilaError: a source has changed.
    """
    for name, fingerprint in done.items():
        if fingerprint is not None and name in about and about[name].fingerprint != fingerprint:
            raise DilaError(
                f"{out} has {name}, but its frames or columns have changed in the source since; choose another folder, "
                "or delete this one to convert it again"
            )


def _is_staged(staging: Path, about: About) -> bool:
    """Whether the episode is staged with the current fingerprint of its source; an outdated one is discarded."""
    name = _name(about.source)
    if is_staged(staging, name) and staged_fingerprint(staging, name) not in (None, about.fingerprint):
        (staging / f"{name}.json").unlink()
    return is_staged(staging, name)


def _fingerprint(recording: _Recording, columns: Sequence[str]) -> str:
    """Hash the files of all cameras and these columns."""
    digest = hashlib.blake2b(digest_size=12)
    for episode in recording.cameras.values():
        digest.update(episode.fingerprint().encode())
    for name in columns:
        digest.update(np.ascontiguousarray(recording.first.columns[name]).tobytes())
    return digest.hexdigest()


def _abouts(
    corpus: Corpus, recordings: Sequence[_Recording], task: str | None, otherwise: str, columns: Sequence[str]
) -> dict[str, About]:
    """Return the metadata of each recording; if the corpus has no splits, all are ``train``."""
    parts: dict[str, list[str]] = {}
    for split, ids in corpus.splits.items():
        for one in ids:
            parts.setdefault(one, []).append(split)
    abouts = {}
    for recording in recordings:
        tasks = (task,) if task else tuple(getattr(recording.first, "tasks", ())) or (otherwise,)
        splits = tuple(parts.get(recording.first.id, ())) if corpus.splits else ("train",)
        abouts[recording.id] = About(recording.id, tasks, splits, _fingerprint(recording, columns))
    return abouts


def _part(corpus: Corpus, about: About) -> int:
    """Return the index of the first split of an episode; episodes without a split come last."""
    return list(corpus.splits).index(about.splits[0]) if corpus.splits and about.splits else len(corpus.splits)


def _size(episode: Episode) -> tuple[int, int]:
    rows, columns = episode.read([0]).shape[-2:]
    return int(rows), int(columns)


def _even(corpus: Corpus) -> tuple[int | float, list[Episode], list[Skipped]]:
    """Return the most common frame rate, the episodes with it, and the others as skipped."""
    rates = {e.id: even_rate(e.times) for e in corpus.episodes}
    common = Counter(rate for rate in rates.values() if rate).most_common(1)
    if not common:
        if all(len(e.times) < 2 for e in corpus.episodes):
            raise DilaError(f"{corpus.root} has only episodes of a single frame; give longer ones")
        raise DilaError(f"{corpus.root} has no episode with an even frame rate; set --fps")
    rate = common[0][0]
    skipped = list(corpus.skipped)
    for episode in corpus.episodes:
        found = rates[episode.id]
        if len(episode.times) < 2:
            skipped.append(Skipped(Path(episode.id), "has fewer than two frames; an episode needs at least two"))
        elif found != rate:
            what = f"{found:g} frames a second" if found else "no even frame rate"
            mend = "convert it from a folder of its own, since --fps declares a rate without resampling"
            faster = f": {rate:g} would play it {rate / found:.3g} times as fast" if found else ""
            told = f"has {what}, but most episodes have {rate:g}; {mend}{faster}"
            skipped.append(Skipped(Path(episode.id), told))
    return rate, [e for e in corpus.episodes if rates[e.id] == rate], skipped


def _paced(episodes: Sequence[Episode], rate: int | float) -> dict[int | float, int]:
    """Count the episodes by the rate in their own files, if it differs from `rate`."""
    own = Counter(even_rate(times) for times in map(stored_times, episodes) if times is not None)
    return {found: count for found, count in own.items() if found and abs(found / rate - 1) > 0.01}


def _common(episodes: Sequence[Episode]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that all episodes have with the same shape and dtype, and the others."""
    kinds = [{name: (c.shape[1:], c.dtype) for name, c in e.columns.items()} for e in episodes]
    everywhere = tuple(name for name in kinds[0] if all(k.get(name) == kinds[0][name] for k in kinds))
    return everywhere, tuple(sorted({name for k in kinds for name in k} - set(everywhere)))
