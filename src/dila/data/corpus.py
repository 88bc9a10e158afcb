"""A corpus: the episodes found under a path, with any true actions stored beside them.

`READERS` maps the name of each format to the module that reads it (a `Reader`). They are tried in this order, and the
first that claims a path reads all of it; a folder that no reader claims is searched recursively.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dila.data import annotated, frames, hdf5, lerobot, something, trajectories, video
from dila.data.examples import example
from dila.data.media import unread
from dila.data.probed import remembering
from dila.data.reading import Names, Skipped, Split
from dila.data.remote import fetch, is_remote
from dila.data.table import TABLE, read_table
from dila.errors import DilaError, first_line, refuse_shortage
from dila.files import at_home, check_there
from dila.plugins import load_plugins
from dila.protocols import Episode

_log = logging.getLogger(__name__)


@runtime_checkable
class Reader(Protocol):
    """Interface of the modules in `READERS`."""

    def claims(self, path: Path) -> bool:
        """Whether the path, a file or a folder, is in this reader's format."""
        ...

    def episodes(self, path: Path, name: str, fps: int | float | None) -> Iterator[Any]:
        """Yield the episodes of the path: dataclasses that satisfy `Episode`, with ids that start with `name`.

        If the path is a single episode, its id is `name`. `Skipped`, `Names` and `Split` of `dila.data.reading` may be
        yielded between episodes. Raises `DilaError`.
        """
        ...


READERS: dict[str, Reader] = {
    "lerobot": lerobot,
    "hdf5": hdf5,
    "something": something,
    "trajectories": trajectories,
    "annotated": annotated,
    "video": video,
    "frames": frames,
}
MAX_SECONDS = 30 * 86_400.0
"""Maximum duration of an episode, from its first frame to its last."""
RUN, OF_RUN = "run.json", ("pictures", "checkpoints")
"""The file that identifies the folder of a training run, and the subfolders of a run that are never read as data."""
HELD_OUT = ("validation", "valid", "val", "test", "held_out")
"""Names of held-out splits; if a data set has several of them, the first in this order counts."""


@dataclass(frozen=True)
class Corpus:
    """The episodes under `root`, in natural order of their ids."""

    root: Path
    episodes: tuple[Episode, ...]
    skipped: tuple[Skipped, ...]
    """Paths are relative to `root`, like ids."""
    names: Mapping[str, tuple[str, ...]]
    """Component names of each column; columns without names are absent."""
    shipped: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    """For each data set that ships splits, the episode ids of each split, such as ``train``."""

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Episode ids of each split, over all data sets; empty if no data set ships splits."""
        names = dict.fromkeys(chain.from_iterable(self.shipped))
        return {name: tuple(chain.from_iterable(its.get(name, ()) for its in self.shipped)) for name in names}


def open_corpus(path: str | Path, fps: int | float | None = None, camera: str | None = None) -> Corpus:
    """Find the episodes of a video, a folder of images, a data set, or a folder with any of them at any depth.

    Ids are paths relative to the root, with ``/``; for a single file or a folder of images the root is its parent.
    Names that begin with a dot and folders of training runs (with a ``run.json``) are ignored. Files that look like
    videos or pictures but are of no known type are listed as skipped. Each real folder is entered once, so links cannot
    loop. Columns come from the data set, and from ``actions.parquet`` in the root if it exists (see docs/data.md).

    Args:
        path: file or folder, or an address (``hf://datasets/user/name``, ``s3://``, ``gs://``, ``https://``), which
            `dila.data.remote.fetch` copies into a local cache first; or, if no such path exists, ``box`` or
            ``box/NAME``, the clips that come with the package.
        fps: frames per second; overrides the rate stated in the files.
        camera: keep only this camera of multi-camera recordings, such as ``observation.images.front``.

    Raises:
        DilaError: the path does not exist or has no readable episode, no recording has this camera, or
            ``actions.parquet`` does not match the episodes.
    """
    corpus = find_corpus(path, fps, camera)
    if not corpus.episodes:
        raise DilaError(_nothing(path, corpus.root, corpus.skipped))
    if corpus.skipped:
        told = "%s: %d files or folders are not read, the first because: %s; dila data check lists all"
        _log.warning(told, path, len(corpus.skipped), corpus.skipped[0].reason)
    return corpus


def find_corpus(path: str | Path, fps: int | float | None = None, camera: str | None = None) -> Corpus:
    """Do as `open_corpus`, but return a corpus without episodes if everything under the path is skipped.

    Raises:
        DilaError: as `open_corpus`, and nothing under the path looks like an episode.
    """
    load_plugins()
    if not str(path):
        raise DilaError("the path is empty; give a video or a folder, or . for the current folder")
    if fps is not None and not 0 < fps < float("inf"):
        raise DilaError(f"fps = {fps} must be above 0")
    path = fetch(str(path)) if is_remote(path) else example(path) or at_home(path)
    check_there(path)
    reader = _reader(path)
    if reader is None and not path.is_dir():
        raise DilaError(_nothing(path, path, []))
    root = path if path.is_dir() else path.resolve().parent
    skipped: list[Skipped] = []
    sources = [(path, reader)] if reader else list(_search(path, set(), skipped))
    finds = _Finds(skipped)
    with remembering(root):
        for source, its_reader in sources:
            alone = source.is_file() and reader
            name = source.resolve().name if alone else source.relative_to(root).as_posix()
            finds.take(source, its_reader, name, fps)
    if not finds.episodes and not skipped:
        raise DilaError(_nothing(path, root, skipped))
    if [e.id for e in finds.episodes] == ["."]:  # the folder itself is the episode: use its name as the id
        finds.rename(path.resolve().name)
        root = path.resolve().parent
    if finds.episodes:
        finds.keep(camera, path)
    table, columns, names = root / TABLE, {}, {}
    if table.is_file():
        columns, names = read_table(table, {e.id: len(e.times) for e in finds.episodes})
    attached = (replace(e, columns={**e.columns, **columns[e.id]}) if e.id in columns else e for e in finds.episodes)
    left_out = (replace(s, path=s.path.relative_to(root)) if s.path.is_relative_to(root) else s for s in skipped)
    return Corpus(root, tuple(attached), tuple(left_out), {**finds.names, **names}, finds.shipped())


class _Finds:
    """Collects what the readers yield, by type."""

    def __init__(self, skipped: list[Skipped]):
        self.skipped = skipped
        self.episodes: list[Any] = []
        self.names: dict[str, tuple[str, ...]] = {}
        self._alone: dict[str, list[str]] = {}
        """Splits of sources with a single episode, such as a video with a JSON document; together they count as one
        data set."""
        self._splits = [self._alone]
        self._unclear: set[str] = set()

    def take(self, source: Path, reader: Reader, name: str, fps: int | float | None) -> None:
        """Read one source; list what cannot be read in `skipped`."""
        splits: dict[str, list[str]] = {}
        try:
            for find in reader.episodes(source, name, fps):
                if isinstance(find, Skipped):
                    self.skipped.append(find)
                elif isinstance(find, Names):
                    self._name(find.columns)
                elif isinstance(find, Split):
                    splits.setdefault(find.name, []).extend(find.ids)
                elif reason := _timeless(find):
                    self.skipped.append(Skipped(source, reason))
                else:
                    self.episodes.append(find)
        except Exception as error:
            refuse_shortage(error)
            self.skipped.append(Skipped(source, _reason(source, error)))
        if splits and sum(map(len, splits.values())) != 1:
            self._splits.append(splits)
            return
        for part, ids in splits.items():
            self._alone.setdefault(part, []).extend(ids)

    def shipped(self) -> tuple[dict[str, tuple[str, ...]], ...]:
        """Return the splits of each data set that ships any."""
        return tuple({part: tuple(ids) for part, ids in its.items()} for its in self._splits if its)

    def _name(self, columns: Mapping[str, tuple[str, ...]]) -> None:
        """Record component names; names of a column on which two sources disagree are dropped."""
        for column, parts in columns.items():
            if column in self._unclear or self.names.get(column, parts) != parts:
                self._unclear.add(column)
                self.names.pop(column, None)
            else:
                self.names[column] = parts

    def rename(self, name: str) -> None:
        """Change the id of the only episode."""
        self.episodes = [replace(self.episodes[0], id=name)]
        self._splits = [{part: [name] for part in its} for its in self._splits]

    def keep(self, camera: str | None, path: Path) -> None:
        """Keep only the episodes of one camera, or all if `camera` is None."""
        if camera is None:
            return
        there = sorted({e.camera for e in self.episodes if hasattr(e, "camera")})
        if camera not in there:
            raise DilaError(f"{path} has no camera {camera!r}; its cameras are {', '.join(there) or 'unnamed'}")
        self.episodes = [e for e in self.episodes if getattr(e, "camera", None) == camera]
        ids = {e.id for e in self.episodes}
        self._splits = [{part: [i for i in some if i in ids] for part, some in its.items()} for its in self._splits]


def _reason(source: Path, error: Exception) -> str:
    if isinstance(error, DilaError):
        return str(error)
    if isinstance(error, OSError):
        return f"{source} cannot be read: {error.strerror or error}"
    # An error that no reader expected must not stop the others, so it is listed like any other.
    return f"{source} is damaged ({type(error).__name__}: {first_line(error)}); replace or remove it"


def _timeless(episode: Any) -> str | None:
    """Return why the times of an episode are unusable, else None.

    Cutting an episode with two frames that are ages apart would enumerate every window between them.
    """
    first, last = (float(episode.times[place]) for place in (0, -1)) if len(episode.times) else (0.0, 0.0)
    if 0 <= last - first <= MAX_SECONDS:
        return None
    if not last - first > 0:
        return f"{episode.id} has times from {first:g} to {last:g} s, which decrease or are not numbers; set its fps"
    return f"{episode.id} lasts from {first:g} to {last:g} s, more than {MAX_SECONDS / 86400:g} days; split it"


def split_episodes(
    corpus: Corpus | Sequence[Episode], held_out: int | float = 0.1, seed: int = 0
) -> tuple[list[Episode], list[Episode]]:
    """Split episodes into training episodes and held-out episodes.

    If data sets ship both a ``train`` split and one of ``validation``, ``valid``, ``val``, ``test``, ``held_out``,
    these are used and their other splits are ignored, unless `held_out` is 0. All other episodes are assigned by a
    hash of their recording in [0, 1): those below `held_out` are held out. All cameras of a recording are on one side.

    With two or more recordings neither side is empty, unless `held_out` is 0: if no hash is below it, the lowest is
    held out, and if all are, the highest is trained on. Adding episodes does not move existing ones, with one
    exception: in a corpus so small that no hash is below `held_out`, a new episode may take the place of the held-out
    one (at 0.1, in 15% of corpora of 5 episodes, 6% of 10, 1.7% of 20, 0.2% of 40).

    Raises:
        DilaError: `held_out` is not in [0, 1).
    """
    if not 0 <= held_out < 1:
        raise DilaError(f"held_out = {held_out} must be at least 0 and below 1")
    if isinstance(corpus, Corpus) and held_out > 0 and (shipped := _shipped(corpus)):
        train, held = ([e for e in corpus.episodes if e.id in ids] for ids in shipped)
        elsewhere = set().union(*corpus.splits.values())
        drawn = _drawn([e for e in corpus.episodes if e.id not in elsewhere], held_out, seed)
        return train + drawn[0], held + drawn[1]
    return _drawn(list(corpus.episodes if isinstance(corpus, Corpus) else corpus), held_out, seed)


def digest(corpus: Corpus, columns: Sequence[str] = ("action", "state")) -> str:
    """Return a short hash of the episodes (ids and files) and of these columns."""
    told = hashlib.sha256()
    for episode in corpus.episodes:
        told.update(f"{episode.id} {episode.fingerprint()}\n".encode())
        for column in columns:
            told.update(np.ascontiguousarray(episode.columns.get(column, ())).tobytes())
    return told.hexdigest()[:16]


def _drawn(episodes: list[Episode], held_out: int | float, seed: int) -> tuple[list[Episode], list[Episode]]:
    draws = [_draw(getattr(e, "recording", e.id), seed) for e in episodes]
    limit, ordered = held_out, sorted(set(draws))
    if len(ordered) >= 2 and held_out > 0:
        limit = ordered[1] if limit <= ordered[0] else min(limit, ordered[-1])
    train = [e for e, draw in zip(episodes, draws, strict=True) if draw >= limit]
    held = [e for e, draw in zip(episodes, draws, strict=True) if draw < limit]
    return (train, held) if train else (held, train)


def _shipped(corpus: Corpus) -> tuple[set[str], set[str]] | None:
    """Return the training and the held-out ids of shipped splits, or None if either is empty or they overlap."""
    train = set(corpus.splits.get("train", ()))
    kept = (next((its[part] for part in HELD_OUT if its.get(part)), ()) for its in corpus.shipped)
    held = set(chain.from_iterable(kept))
    return (train, held) if train and held and not train & held else None


def _draw(name: str, seed: int) -> float:
    """Hash the id and the seed to a number in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()) / 2**64


def _reader(path: Path) -> Reader | None:
    try:
        return next((reader for reader in READERS.values() if reader.claims(path)), None)
    except OSError as error:  # no permission to enter the folder: reported when it is searched
        refuse_shortage(error)
        return None


def _search(folder: Path, entered: set[str], skipped: list[Skipped]) -> Iterator[tuple[Path, Reader]]:
    real = os.path.realpath(folder)
    if real in entered:
        return
    entered.add(real)
    try:
        children = sorted(folder.iterdir(), key=lambda p: frames.natural_order(p.name))
    except OSError as error:
        refuse_shortage(error)
        skipped.append(Skipped(folder, f"{folder} cannot be read: {error.strerror or error}"))
        return
    images = sum(1 for child in children if child.suffix.lower() in frames.SUFFIXES and not child.name.startswith("."))
    if images > 1:  # a single image is a thumbnail
        reason = (
            f"{folder} has {images} images beside a video or a folder, which are not read as an episode; move them "
            "to a folder of their own"
        )
        skipped.append(Skipped(folder, reason, fault=False))
    in_run, unclaimed = os.path.isfile(folder / RUN), []
    for child in children:
        if child.name.startswith("."):
            continue
        if in_run and child.name in OF_RUN:
            skipped.append(_of_run(child))
        elif reader := _reader(child):
            yield child, reader
        elif os.path.isfile(child / RUN):
            skipped.append(_of_run(child))
        elif child.is_dir():
            yield from _search(child, entered, skipped)
        else:
            unclaimed.append(child)
    skipped += unread(folder, unclaimed)


def _of_run(folder: Path) -> Skipped:
    return Skipped(folder, f"{folder} belongs to a training run ({RUN}) and is not read as data", fault=False)


def _nothing(path: str | Path, root: Path, skipped: Sequence[Skipped]) -> str:
    if len(skipped) == 1 and Path(path) in (skipped[0].path, root / skipped[0].path):
        return skipped[0].reason
    if skipped:
        return f"{path} has no readable episode ({len(skipped)} skipped); the first problem: {skipped[0].reason}"
    kinds = ", ".join(sorted(s[1:] for s in video.SUFFIXES | frames.SUFFIXES | hdf5.SUFFIXES))
    return f"{path} has no video and no folder of images; give a path with files of these types: {kinds}"
