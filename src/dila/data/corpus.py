"""A corpus: the episodes found under a path, and the true actions that lie beside them.

`READERS` maps a kind of storage to the module that reads it, in the order in which they are asked. A reader has two
functions: ``claims(path) -> bool``, and ``episodes(path, name, fps)``, which yields the episodes in there (one for a
video, many for a data set in one folder) or raises `DilaError`. The first that claims a path has it whole; a folder
that none claims is searched.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dila.data import frames, video
from dila.data.table import TABLE, read_table
from dila.errors import DilaError
from dila.protocols import Episode


@runtime_checkable
class Reader(Protocol):
    """What a module in `READERS` offers."""

    def claims(self, path: Path) -> bool:
        """Whether the path, a file or a folder, is in this reader's format."""
        ...

    def episodes(self, path: Path, name: str, fps: int | float | None) -> Iterator[Any]:
        """The episodes in there, dataclasses satisfying `Episode`, with ids that start with `name`."""
        ...


READERS: dict[str, Reader] = {"video": video, "frames": frames}


@dataclass(frozen=True)
class Skipped:
    """An episode that could not be read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Corpus:
    """The episodes under `root`, in natural order of their ids."""

    root: Path
    episodes: tuple[Episode, ...]
    skipped: tuple[Skipped, ...]
    names: Mapping[str, tuple[str, ...]]
    """What the components of each column are called; columns without names are absent."""

    def __len__(self) -> int:
        return len(self.episodes)


def open_corpus(path: str | Path, fps: int | float | None = None) -> Corpus:
    """Find the episodes of a video file, a folder of images, or a folder with any number of them at any depth.

    Ids are paths relative to the root, with ``/``; for a single file or a folder of images the root is its parent.
    Names that begin with a dot are left out; each real folder is entered once, so links cannot loop. Columns come
    from ``actions.parquet`` in the root, when there is one (see docs/data.md).

    Args:
        path: file or folder.
        fps: frames a second, instead of what the files say.

    Raises:
        DilaError: nothing there, nothing readable, or a table that does not fit its episodes.
    """
    path = Path(path)
    if fps is not None and not 0 < fps < float("inf"):
        raise DilaError(f"fps = {fps} must be above 0")
    if not path.exists():
        raise DilaError(f"{path} does not exist")
    reader = _reader(path)
    if reader is None and not path.is_dir():
        raise DilaError(_nothing(path, []))
    root = path.resolve().parent if reader else path
    sources = [(path, reader)] if reader else list(_search(path, set()))
    found: list[Any] = []
    skipped: list[Skipped] = []
    for source, its_reader in sources:
        name = source.resolve().name if reader else source.relative_to(root).as_posix()
        try:
            found.extend(its_reader.episodes(source, name, fps))
        except DilaError as error:
            skipped.append(Skipped(source, str(error)))
    if not found:
        raise DilaError(_nothing(path, skipped))
    table = root / TABLE
    if not table.is_file():
        return Corpus(root, tuple(found), tuple(skipped), {})
    columns, names = read_table(table, {e.id: len(e.times) for e in found})
    attached = (replace(e, columns={**e.columns, **columns[e.id]}) if e.id in columns else e for e in found)
    return Corpus(root, tuple(attached), tuple(skipped), names)


def split_episodes(
    corpus: Corpus | Sequence[Episode], held_out: int | float = 0.1, seed: int = 0
) -> tuple[list[Episode], list[Episode]]:
    """Episodes for training and episodes held out, by a hash of the id: adding episodes moves no other.

    With two or more episodes neither side is empty, unless `held_out` is 0.

    Raises:
        DilaError: `held_out` is not in [0, 1).
    """
    if not 0 <= held_out < 1:
        raise DilaError(f"held_out = {held_out} must be at least 0 and below 1")
    episodes = list(corpus.episodes if isinstance(corpus, Corpus) else corpus)
    draws = [_draw(e.id, seed) for e in episodes]
    limit = held_out
    if len(episodes) >= 2 and held_out > 0:
        ordered = sorted(draws)
        limit = ordered[1] if limit <= ordered[0] else min(limit, ordered[-1])
    train = [e for e, draw in zip(episodes, draws, strict=True) if draw >= limit]
    held = [e for e, draw in zip(episodes, draws, strict=True) if draw < limit]
    return (train, held) if train else (held, train)


def _draw(name: str, seed: int) -> float:
    """A number in [0, 1) fixed by the id and the seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()) / 2**64


def _reader(path: Path) -> Reader | None:
    return next((reader for reader in READERS.values() if reader.claims(path)), None)


def _search(folder: Path, entered: set[str]) -> Iterator[tuple[Path, Reader]]:
    real = os.path.realpath(folder)
    if real in entered:
        return
    entered.add(real)
    for child in sorted(folder.iterdir(), key=lambda p: frames.natural_order(p.name)):
        if child.name.startswith("."):
            continue
        if reader := _reader(child):
            yield child, reader
        elif child.is_dir():
            yield from _search(child, entered)


def _nothing(path: Path, skipped: Sequence[Skipped]) -> str:
    if len(skipped) == 1 and skipped[0].path == path:
        return skipped[0].reason
    if skipped:
        return f"{path} holds no readable episode: {len(skipped)} skipped, the first because {skipped[0].reason}"
    kinds = ", ".join(sorted(s[1:] for s in video.SUFFIXES | frames.SUFFIXES))
    return f"{path} holds no video and no folder of images; give a path with files of these kinds: {kinds}"
