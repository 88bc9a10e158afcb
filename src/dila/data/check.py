"""Describe a corpus and find its problems before training on it."""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from dila.data.corpus import Corpus, find_corpus
from dila.data.examples import example
from dila.data.rate import even_rate
from dila.data.remote import is_remote
from dila.data.table import TABLE, count_rows
from dila.errors import DilaError, in_words, refuse_shortage
from dila.files import at_home
from dila.protocols import Episode
from dila.shapes import Float, Tensor

STRETCH = 8
"""Number of consecutive frames that are read together."""

GRID = 16
"""Frames are averaged over a grid of this many cells a side, to distinguish motion from compression noise."""

STILL = 2.0
"""Maximum change, in grey levels, of any cell of a static episode relative to its first frame."""

GAP = 1.5
"""A step between frames is a gap if it is longer than this many times the median step."""


@dataclass(frozen=True)
class Finding:
    """A problem and the items that have it."""

    kind: str
    sentence: str
    items: tuple[str, ...]


@dataclass
class Report:
    """Result of `check`; `dataclasses.asdict` makes it JSON-ready. Counts are of readable episodes."""

    path: str
    readers: dict[str, int]
    """Number of episodes by reader."""
    episodes: int
    frames: int
    hours: float
    looked_at: int
    """Number of frames that were read."""
    fps: dict[str, int]
    """Number of episodes by frame rate."""
    sizes: dict[str, int]
    """Number of episodes by size, columns x rows."""
    cameras: dict[str, int]
    """Number of episodes by camera, for data with named cameras."""
    columns: dict[str, dict[str, Any]]
    """For each column: numbers per frame, number of episodes that have it, component names."""
    bytes: int
    """Size of all files under the path."""
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)


class _Seen(NamedTuple):
    """Properties of one episode."""

    looked_at: int
    duplicates: int
    """Number of frames that are identical to the one before."""
    static: bool
    size: tuple[int, int] | None
    widths: dict[str, int]
    """Numbers per frame of each column."""
    unknown: frozenset[str]
    """Columns with values that are not finite."""
    ordered: bool
    """Whether its timestamps are strictly increasing."""
    gaps: bool


def check(path: str | Path, fps: int | float | None = None, frames: int = 64, camera: str | None = None) -> Report:
    """Open a corpus, read part of every episode, and report contents and problems.

    Errors are data that training cannot use: unreadable files, timestamps out of order, no readable episode. Warnings
    are data that it would use or ignore, perhaps against the user's intention: static episodes, frames identical to the
    one before, gaps in time, copies of a recording, mixed frame rates or sizes, columns that some episodes lack, that
    differ in width or have values that are not finite, episodes of one frame, table rows of unknown episodes, images
    that are not an episode, videos and pictures of types that are not read, tables that are not read, folders that look
    like cameras of one recording.

    Args:
        path: as for `dila.data.open_corpus`.
        fps: frames a second; overrides the rate stated in the files.
        frames: maximum number of frames read from each episode, in groups of 8 spread over it; 0 reads all.
        camera: keep only this camera of multi-camera recordings.

    Raises:
        DilaError: the path does not exist or has nothing that looks like an episode, no recording has this camera, or
            ``actions.parquet`` does not match the episodes.
    """
    if frames < 0:
        raise DilaError(f"frames = {frames} must be at least 1, or 0 to read all")
    corpus = find_corpus(path, fps, camera)
    seen: dict[str, _Seen] = {}
    unreadable = [(s.path.as_posix(), s.reason) for s in corpus.skipped if s.fault]
    for episode in corpus.episodes:
        try:
            seen[episode.id] = _look(episode, frames)
        except Exception as error:  # the decoder of a damaged file may raise anything
            refuse_shortage(error)
            unreadable.append((episode.id, in_words(error)))
    place = corpus.root if is_remote(path) else example(path) or at_home(path)
    report = _described(str(path), corpus, seen, _disk(place))
    report.errors += list(_errors(seen, unreadable))
    report.warnings += list(_warnings(corpus, seen, report))
    if camera is None:  # else rows of the other cameras would count as unknown
        report.warnings += list(_strangers(corpus))
    return report


def _described(path: str, corpus: Corpus, seen: Mapping[str, _Seen], size: int) -> Report:
    sizes = Counter(f"{s.size[1]} x {s.size[0]}" for s in seen.values() if s.size)
    episodes = _sound(corpus, seen)
    cameras = Counter(str(getattr(e, "camera", None) or "") for e in episodes)
    cameras.pop("", None)
    return Report(
        path=path,
        readers=dict(Counter(_reader(e) for e in episodes)),
        episodes=len(episodes),
        frames=sum(len(e.times) for e in episodes),
        hours=round(sum(_seconds(e.times) for e in episodes) / 3600, 6),
        looked_at=sum(s.looked_at for s in seen.values()),
        fps=dict(Counter(_rate(e.times) for e in episodes)),
        sizes=dict(sizes),
        cameras=dict(cameras),
        columns=_columns(seen, corpus.names),
        bytes=size,
    )


def _reader(episode: Episode) -> str:
    """Return the name of the reader of an episode: a module of `dila.data`, or the class of a plugin."""
    package, _, name = type(episode).__module__.rpartition(".")
    return name if package == "dila.data" else type(episode).__qualname__


def _sound(corpus: Corpus, seen: Mapping[str, _Seen]) -> list[Episode]:
    """Episodes whose frames and columns could be read."""
    return [episode for episode in corpus.episodes if episode.id in seen]


def _columns(seen: Mapping[str, _Seen], names: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    columns: dict[str, dict[str, Any]] = {}
    for one in seen.values():
        for name, width in one.widths.items():
            told = columns.setdefault(name, {"numbers": width, "episodes": 0, "names": list(names.get(name, ()))})
            told["episodes"] += 1
    return columns


def _errors(seen: Mapping[str, _Seen], unreadable: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    if unreadable:
        told = tuple(f"{name}: {reason}" for name, reason in unreadable)
        yield Finding("unreadable", f"unreadable files or episodes, which will be skipped: {len(told)}", told)
    order = tuple(name for name, s in seen.items() if not s.ordered)
    if not seen:
        yield Finding("empty", "no readable episode", ())
    if order:
        yield Finding("times", f"timestamps are out of order in {_episodes(order)}", order)


def _warnings(corpus: Corpus, seen: Mapping[str, _Seen], report: Report) -> Iterator[Finding]:
    beside = tuple(s.reason for s in corpus.skipped if not s.fault) + _unread_tables(corpus)
    if beside:
        yield Finding("left_out", f"files that look like data are ignored in {_count(len(beside), 'place')}", beside)
    episodes, total = _sound(corpus, seen), _episodes(seen)
    cameras = tuple(_camera_folders(episodes))
    if cameras:
        told = (
            "these folders have the same file names and lengths, like cameras of one recording; a split may separate "
            "them"
        )
        yield Finding("cameras", told, cameras)
    short = tuple(e.id for e in episodes if len(e.times) < 2)
    if short:
        yield Finding("short", f"fewer than 2 frames, too few for a clip, in {len(short)} of {total}", short)
    static = [name for name, s in seen.items() if s.static]
    if static:
        yield Finding("static", f"no motion in {len(static)} of {total}", tuple(static))
    repeated = {name: s for name, s in seen.items() if s.duplicates and not s.static}
    if repeated:
        told = tuple(f"{name}: {s.duplicates} of {s.looked_at}" for name, s in repeated.items())
        count = sum(s.duplicates for s in repeated.values())
        sentence = f"{_count(count, 'duplicate frame')} in {_episodes(told)}"
        yield Finding("duplicates", sentence, told)
    gaps = tuple(name for name, s in seen.items() if s.gaps)
    if gaps:
        yield Finding("gaps", f"gaps in time in {_episodes(gaps)}; clips will not cross them", gaps)
    twins = list(_twins(episodes))
    if twins:
        yield Finding(
            "copies", f"{_episodes(twins)} with the same file as another; a split may separate them", tuple(twins)
        )
    for kind, found in (("frame rates", report.fps), ("sizes", report.sizes)):
        if len(found) > 1:
            told = tuple(f"{name}: {_count(count, 'episode')}" for name, count in found.items())
            yield Finding(kind.replace(" ", "_"), f"{len(found)} different {kind}", told)
    yield from _columns_amiss(seen, report)


def _unread_tables(corpus: Corpus) -> tuple[str, ...]:
    """Describe tables in the folders of episodes that are not read."""
    above = (folder for episode in corpus.episodes for folder in (corpus.root / episode.id).parents)
    folders = {folder for folder in above if folder.is_relative_to(corpus.root) and folder.is_dir()}
    files = (path for folder in folders for path in folder.iterdir() if not path.name.startswith("."))
    unread = sorted(
        path for path in files if path.suffix.lower() in (".csv", ".parquet") and path != corpus.root / TABLE
    )
    return tuple(
        f"{path.relative_to(corpus.root).as_posix()}: only {TABLE} in the root of the corpus is read; docs/data.md "
        "has a script that makes it"
        for path in unread
    )


def _camera_folders(episodes: Sequence[Episode]) -> Iterator[str]:
    """Find sibling folders with the same two or more names, each with the same number of frames: probably cameras."""
    folders: defaultdict[PurePosixPath, dict[str, int]] = defaultdict(dict)
    for episode in episodes:
        path = PurePosixPath(episode.id)
        if not hasattr(episode, "camera") and path.parent.name:
            folders[path.parent][path.name] = len(episode.times)
    alike: defaultdict[tuple[PurePosixPath, frozenset[tuple[str, int]]], list[PurePosixPath]] = defaultdict(list)
    for folder, names in folders.items():
        alike[folder.parent, frozenset(names.items())].append(folder)
    for (_, names), (one, *others) in alike.items():
        for other in others if len(names) > 1 else ():
            yield f"{one} and {other}: {len(names)} names"


def _strangers(corpus: Corpus) -> Iterator[Finding]:
    """Find episodes in the table that do not exist; their ids are probably misspelt."""
    table, ids = corpus.root / TABLE, {e.id for e in corpus.episodes}
    told = count_rows(table) if table.is_file() else {}
    lost = {name: rows for name, rows in told.items() if name not in ids and not os.path.exists(corpus.root / name)}
    if not lost:
        return
    first, free = next(iter(lost)), [e.id for e in corpus.episodes if e.id not in told]
    alike = [name for name in free if PurePosixPath(name).stem == PurePosixPath(first).stem]
    meant = (alike or get_close_matches(first, free, 1))[:1]
    sentence = f'{TABLE} has {sum(lost.values())} rows of {_episodes(lost)} not in this corpus, such as "{first}"'
    sentence += "".join(f'; did you mean "{name}"?' for name in meant)
    yield Finding("table", sentence, tuple(f"{name}: {rows} rows" for name, rows in lost.items()))


def _columns_amiss(seen: Mapping[str, _Seen], report: Report) -> Iterator[Finding]:
    for name, told in report.columns.items():
        widths = {key: one.widths[name] for key, one in seen.items() if name in one.widths}
        lacking = tuple(key for key in seen if key not in widths)
        if lacking:
            yield Finding("columns", f"column {name} is missing in {_episodes(lacking)}; clips will drop it", lacking)
        if other := tuple(f"{key}: {width}" for key, width in widths.items() if width != told["numbers"]):
            sentence = f"column {name} has {told['numbers']} numbers per frame, but not in {_episodes(other)}"
            yield Finding("columns", f"{sentence}; clips will drop it", other)
        odd = tuple(key for key, one in seen.items() if name in one.unknown)
        if odd:
            yield Finding("values", f"column {name} has values that are not finite in {_episodes(odd)}", odd)


def _look(episode: Episode, frames: int) -> _Seen:
    columns = dict(episode.columns)  # reads lazy columns, so that a table that does not match the frames raises here
    duplicates, looked_at = 0, set()
    static, size, first = True, None, None
    for stretch in stretches(len(episode.times), frames):
        pictures = episode.read(stretch)
        looked_at.update(stretch)
        duplicates += int((pictures[1:] == pictures[:-1]).flatten(1).all(1).sum())
        size = (int(pictures.shape[-2]), int(pictures.shape[-1]))
        cells = _cells(pictures)
        first = cells[:1] if first is None else first
        static = static and float((cells - first).abs().max()) <= STILL
    times = _stamps(episode)
    steps = np.diff(times)
    return _Seen(
        looked_at=len(looked_at),
        duplicates=duplicates,
        static=static and len(looked_at) > 1,
        size=size,
        widths={name: prod(values.shape[1:]) for name, values in columns.items()},
        unknown=frozenset(name for name, values in columns.items() if not np.isfinite(_seen_rows(name, values)).all()),
        ordered=not (steps <= 0).any() and bool(np.isfinite(times).all()),
        gaps=len(steps) > 1 and bool((steps > GAP * np.median(steps)).any()),
    )


def _seen_rows(name: str, values: np.ndarray) -> np.ndarray:
    """Return the rows that clips can contain: the last action leads to no frame and may be NaN."""
    return values[:-1] if name == "action" else values


def stretches(length: int, frames: int) -> list[list[int]]:
    """Return evenly spaced runs of `STRETCH` consecutive frame numbers, about ``frames`` in total; 0 returns all.

    If all frames are covered, neighbouring runs share a frame, so that no pair of neighbouring frames is missed.
    """
    if frames == 0 or frames >= length:
        starts = range(0, max(1, length - 1), STRETCH - 1)
    else:
        count = max(1, frames // STRETCH)
        starts = np.unique(np.linspace(0, max(0, length - STRETCH), count).round().astype(int)).tolist()
    return [list(range(start, min(start + STRETCH, length))) for start in starts if start < length]


def _cells(pictures: Tensor) -> Float[Tensor, "N 3 _ _"]:
    rows, columns = (min(GRID, int(s)) for s in pictures.shape[-2:])
    return F.adaptive_avg_pool2d(pictures.to(torch.float32), (rows, columns))


def _episodes(some: Collection[Any]) -> str:
    return _count(len(some), "episode")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seconds(times: np.ndarray) -> float:
    return float(times[-1] - times[0]) + float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def _rate(times: np.ndarray) -> str:
    if rate := even_rate(times):
        return f"{rate:.4g}"
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return f"{1 / step:.4g}" if step > 0 else "unknown"


def _stamps(episode: Any) -> np.ndarray:
    """Return the stored timestamps in seconds, also if the reader computes times from frame numbers instead."""
    stamps = getattr(episode, "stamps", None)
    stored = stamps() if stamps else None
    return episode.times if stored is None else stored


def _twins(episodes: Sequence[Episode]) -> Iterator[str]:
    first: dict[tuple[str, str], str] = {}
    for episode in episodes:
        # Cameras of one recording may share a file, and then a fingerprint.
        key = (episode.fingerprint(), str(getattr(episode, "camera", "")))
        if (other := first.setdefault(key, episode.id)) != episode.id:
            yield f"{episode.id} is {other}"


def _disk(path: Path) -> int:
    """Return the size of a file, or of all files in a folder, counting linked files once."""
    if path.is_file():
        return path.stat().st_size
    sizes: dict[tuple[int, int], int] = {}
    entered: set[str] = set()
    for folder, inner, files in os.walk(path, followlinks=True):
        if (real := os.path.realpath(folder)) in entered:
            inner.clear()
            continue
        entered.add(real)
        for name in files:
            try:
                stat = os.stat(os.path.join(folder, name))
            except OSError:
                continue  # a dangling link
            sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())
