"""Any corpus that `open_corpus` reads, written as a LeRobot data set (see `dila.data.lerobot_write`).

A LeRobot data set has one frame rate, the same cameras, one size of picture of each, and the same columns everywhere.
What does not fit is left out and listed with the reason; nothing is resampled, for the rows of ``action`` would no
longer move one frame to the next. All cameras that saw one recording become one episode, which keeps its task and the
parts of the data set that it belongs to.
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
from dila.data.labels import COLUMN, read_about, with_column, with_labels
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
from dila.files import alone, at_home
from dila.protocols import Episode
from dila.shapes import Tensor

CHUNK_BYTES = 2**27
"""Of frames read at once."""
UNMOVED = {"static": "stands still", "camera": "is moved by its camera"}
"""Why a recording is left out, by the verdict of `dila.data.motion.judge`."""


class Converted(NamedTuple):
    """What a conversion left."""

    out: Path
    episodes: int
    skipped: tuple[Skipped, ...]
    """Episodes that are not in the result, and why."""
    dropped: tuple[str, ...]
    """Columns that are text, or that not every episode has."""
    labelled: tuple[int, int] | None = None
    """Of `labels`: frames that have one, and frames there are."""
    paced: Mapping[int | float, int] = {}
    """Of a given `fps`: recordings by the rate that their own files say, where it is another."""


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
    """Write a corpus as a LeRobot data set, version 3.0; interrupted, the same call goes on where it stopped.

    Args:
        path: what `open_corpus` takes.
        out: folder of the data set.
        fps: frames a second that are declared, instead of what the files say; nothing is resampled. Without it the most
            common rate, and only episodes of it.
        size: pixels a side, even, that frames are resized to without keeping their ratio; without it the first
            recording's, and only recordings of it.
        task: what is done, in words, in all; when None what the data set says of each, else the name of `path`.
        workers: processes.
        progress: show a progress bar.
        camera: of recordings that several cameras saw, this one alone.
        moving: leave out recordings that stand still or whose camera moves, as `dila.data.motion` judges the first
            camera's.
        labels: of these videos, as ``dila label`` wrote them; they become a column, see `dila.data.labels`. Of
            recordings that several cameras saw those of the first that has any.

    Raises:
        DilaError: nothing readable, no two frames anywhere, labels of other videos or frame times, or `out` lies in
            the corpus, holds something else or what has changed there since, or is worked on by another process.
    """
    told, out = str(path) if is_remote(path) else str(at_home(path).resolve()), at_home(out)
    if workers < 1 or (size is not None and not (16 <= size <= 4096 and size % 2 == 0)):
        raise DilaError(f"workers = {workers} must be at least 1 and size = {size} even, from 16 to 4096")
    if out.resolve().is_relative_to(told):
        raise DilaError(f"{out} lies in the corpus itself; choose another folder for the result")
    corpus = open_corpus(path, fps, camera)
    corpus = with_labels(corpus, labels) if labels else corpus
    rate, even, skipped = _even(corpus)
    recordings, odd = _recordings(even)
    skipped += odd
    if not recordings:
        raise DilaError(f"{path} gave no episode: {len(skipped)} skipped, the first because {skipped[0].reason}")
    sizes = {key: (size, size) if size else _size(e) for key, e in recordings[0].cameras.items()}
    recordings, labelled = _labelled(recordings) if labels else (recordings, None)
    columns, dropped = _common([r.first for r in recordings])
    # What was decided is a setting: a corpus that grew must not go on with another size or other columns.
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
        # A part of the data set is one range, then.
        order = sorted(recordings, key=lambda r: _part(corpus, about[r.id]))
        publish(out, staging, [_name(r.id) for r in order], names, rate)
        # Where disks have no locks, another process that found all staged may have been here.
        shutil.rmtree(staging, ignore_errors=True)
    written = len(sources(out))
    if not written:
        raise DilaError(f"{path} gave no episode: {len(skipped)} skipped, the first because {skipped[0].reason}")
    texts = text_features(corpus.root) if claims(corpus.root) else ()
    paced = _paced([r.first for r in recordings], rate) if fps else {}
    return Converted(out, written, tuple(skipped), (*dropped, *texts), labelled, paced)


class _Recording(NamedTuple):
    """What several cameras saw at once."""

    id: str
    cameras: dict[str, Episode]
    """By the key of the feature that they become."""

    @property
    def first(self) -> Episode:
        return next(iter(self.cameras.values()))

    def with_column(self, name: str, values: np.ndarray) -> "_Recording":
        """The same with a column of the first camera's."""
        key, first = next(iter(self.cameras.items()))
        return _Recording(self.id, {**self.cameras, key: with_column(first, name, values)})


class _Job(NamedTuple):
    """What is done with each recording; workers are sent it with each, so what is told of one goes along with that."""

    staging: Path
    rate: int | float
    sizes: Mapping[str, tuple[int, int]]
    resize: bool
    columns: Sequence[str]
    moving: bool

    def __call__(self, one: tuple[_Recording, About]) -> Skipped | None:
        """Encode one recording, or say why not."""
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
                f"{episode.id} has frames of {found[1]} x {found[0]}, the first episode of {size[1]} x {size[0]}; "
                "give a --size"
            )
        chunk = max(16, CHUNK_BYTES // (3 * found[0] * found[1]))
        for start in range(0, len(episode.times), chunk):
            frames = episode.read(range(start, min(start + chunk, len(episode.times))))
            yield resized(frames, size)


def _name(recording: str) -> str:
    """Of its staged files: the same whatever else is in the corpus."""
    return hashlib.blake2b(recording.encode(), digest_size=12).hexdigest()


def _recordings(episodes: Sequence[Episode]) -> tuple[list[_Recording], list[Skipped]]:
    """The episodes by what they are recordings of, those with the cameras that most have; and the others."""
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
            which = f"has the cameras {', '.join(recording.cameras)}, most recordings have {', '.join(common)}"
            skipped.append(Skipped(Path(recording.id), f"{which}; give a --camera that all have"))
        elif len({len(e.times) for e in recording.cameras.values()}) > 1:
            skipped.append(Skipped(Path(recording.id), "has cameras with different numbers of frames; give a --camera"))
        elif unread := _unread(recording):
            skipped.append(unread)
        else:
            kept.append(recording)
    return kept, skipped


def _unread(recording: _Recording) -> Skipped | None:
    """Why the columns of a recording cannot be read."""
    try:
        dict(recording.first.columns)
    except DilaError as error:
        refuse_shortage(error)
        return Skipped(Path(recording.id), str(error))
    return None


def _labelled(recordings: Sequence[_Recording]) -> tuple[list[_Recording], tuple[int, int]]:
    """The first camera, whose columns are taken, gets the labels of the first that has any; frames with one, and all.

    Raises:
        DilaError: no camera has any.
    """
    known = {
        key: sum(int((~np.isnan(r.cameras[key].columns[COLUMN][:, 0])).sum()) for r in recordings)
        for key in recordings[0].cameras
    }
    source = next((key for key, count in known.items() if count), None)
    if source is None:
        raise DilaError(
            "no frame of what would be converted has a label; label these videos, or convert those labelled"
        )
    frames = sum(len(r.first.times) for r in recordings)
    return [r.with_column(COLUMN, r.cameras[source].columns[COLUMN]) for r in recordings], (known[source], frames)


def _feature(camera: str) -> str:
    """The key that a camera gets: LeRobot looks for pictures below this prefix, and allows no slash."""
    name = camera.replace("/", ".")
    return name if name.startswith("observation.image") else f"observation.images.{name}"


def _check_unchanged(out: Path, done: Mapping[str, str | None], about: Mapping[str, About]) -> None:
    """See that what is in place is what the corpus still holds; data sets of before do not say.

    Raises:
        DilaError: a source has changed since.
    """
    for name, fingerprint in done.items():
        if fingerprint is not None and name in about and about[name].fingerprint != fingerprint:
            raise DilaError(
                f"{out} holds {name} as it was before its frames or columns changed; choose another folder, or delete "
                "this one to convert it anew"
            )


def _is_staged(staging: Path, about: About) -> bool:
    """Whether an episode lies in the staging folder as its source is now; what it was before is forgotten."""
    name = _name(about.source)
    if is_staged(staging, name) and staged_fingerprint(staging, name) not in (None, about.fingerprint):
        (staging / f"{name}.json").unlink()
    return is_staged(staging, name)


def _fingerprint(recording: _Recording, columns: Sequence[str]) -> str:
    """Changes with the files of all cameras and with these columns."""
    digest = hashlib.blake2b(digest_size=12)
    for episode in recording.cameras.values():
        digest.update(episode.fingerprint().encode())
    for name in columns:
        digest.update(np.ascontiguousarray(recording.first.columns[name]).tobytes())
    return digest.hexdigest()


def _abouts(
    corpus: Corpus, recordings: Sequence[_Recording], task: str | None, otherwise: str, columns: Sequence[str]
) -> dict[str, About]:
    """What is told of each recording; without splits, all is for training."""
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
    """Place of the first part that an episode belongs to; of those in none, after all others."""
    return list(corpus.splits).index(about.splits[0]) if corpus.splits and about.splits else len(corpus.splits)


def _size(episode: Episode) -> tuple[int, int]:
    rows, columns = episode.read([0]).shape[-2:]
    return int(rows), int(columns)


def _even(corpus: Corpus) -> tuple[int | float, list[Episode], list[Skipped]]:
    """The most common rate, the episodes that keep it, and the rest."""
    rates = {e.id: even_rate(e.times) for e in corpus.episodes}
    common = Counter(rate for rate in rates.values() if rate).most_common(1)
    if not common:
        if all(len(e.times) < 2 for e in corpus.episodes):
            raise DilaError(f"{corpus.root} holds only episodes of one frame, which has no rate; give longer ones")
        raise DilaError(f"{corpus.root} holds no episode with an even frame rate; give --fps")
    rate = common[0][0]
    skipped = list(corpus.skipped)
    for episode in corpus.episodes:
        found = rates[episode.id]
        if len(episode.times) < 2:
            skipped.append(Skipped(Path(episode.id), "has one frame; two at least make an episode of a data set"))
        elif found != rate:
            what = f"{found:g} frames a second" if found else "no even frame rate"
            mend = "convert it from a folder of its own, as --fps declares a rate and resamples nothing"
            faster = f": {rate:g} would play it {rate / found:.3g} times as fast" if found else ""
            told = f"has {what}, most episodes have {rate:g}; {mend}{faster}"
            skipped.append(Skipped(Path(episode.id), told))
    return rate, [e for e in corpus.episodes if rates[e.id] == rate], skipped


def _paced(episodes: Sequence[Episode], rate: int | float) -> dict[int | float, int]:
    """How many say of themselves that they have another rate, and which."""
    own = Counter(even_rate(times) for times in map(stored_times, episodes) if times is not None)
    return {found: count for found, count in own.items() if found and abs(found / rate - 1) > 0.01}


def _common(episodes: Sequence[Episode]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns that all episodes have, in the same shape and type, and the others."""
    kinds = [{name: (c.shape[1:], c.dtype) for name, c in e.columns.items()} for e in episodes]
    everywhere = tuple(name for name in kinds[0] if all(k.get(name) == kinds[0][name] for k in kinds))
    return everywhere, tuple(sorted({name for k in kinds for name in k} - set(everywhere)))
