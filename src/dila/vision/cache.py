"""Feature cache: each frame is encoded once; training reads features from disk without an encoder in memory.

A cache folder has one folder per encoder config::

    <encoder name>-<hash of its config>/
        encoder.json             the config, for information
        shard-<hash>.safetensors raw features, bf16, [N, H, W, D], one tensor per episode or per `PIECE` frames of it

Features are stored raw: statistics can be fitted from the cache and changed without encoding again. An entry's key
hashes the encoder's config and weights, the episode's id, fingerprint and frame times, so changed data are encoded
again and stale entries never read. Shards are self-describing, and complete once they have their name, so any number
of processes may read and write at a time; two that encode the same episode only duplicate work.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from dila.errors import DilaError, check_inside, refuse_shortage
from dila.files import at_home, replacing, writing
from dila.protocols import Episode
from dila.shapes import Float, Tensor
from dila.vision.encoder import FrozenEncoder
from dila.vision.shards import open_shard, stored
from dila.vision.statistics import FeatureStatistics, accumulate

READ_BATCH = 64
"""Number of decoded frames of an episode in memory at once."""

SHARD_BYTES = 256 * 2**20
"""Size at which a shard is written. Bounds the work lost to a kill, and the memory of encoding."""

PIECE = 512
"""Maximum number of frames per tensor, which bounds memory for videos of hours."""

BYTES_PER_NUMBER = 2

STALE = 24 * 3600
"""Age in seconds after which a partial file is considered abandoned."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedEpisode:
    """An `Episode` whose frames are features: `read` gives ``N H W D``, normalised if there are statistics.

    Small and picklable: the features stay in the shards, which every process maps into memory itself.
    """

    id: str
    times: np.ndarray
    columns: Mapping[str, np.ndarray]
    shards: tuple[Path, ...]
    """One per `PIECE` frames."""
    key: str
    statistics: FeatureStatistics | None = None

    def read(self, frames: Sequence[int]) -> Float[Tensor, "N H W D"]:
        """Return the features of these frames, in this order, float32; only their pages are read from disk.

        Raises:
            DilaError: a shard is missing or damaged, or a frame does not exist.
        """
        wanted = np.array(check_inside(self.id, frames, len(self.times)), dtype=np.int64)
        pieces = wanted // PIECE
        parts = [self._rows(int(piece), wanted[pieces == piece] % PIECE) for piece in np.unique(pieces)]
        e = torch.cat(parts or [self._rows(0, wanted)])
        if len(parts) > 1:
            e = e[torch.from_numpy(np.argsort(np.argsort(pieces, kind="stable"), kind="stable"))]
        return e if self.statistics is None else self.statistics.normalise(e)

    def _rows(self, piece: int, rows: np.ndarray) -> Tensor:
        shard = open_shard(str(self.shards[piece]))
        return shard.rows(_piece_key(self.key, piece), rows)

    def fingerprint(self) -> str:
        """Return a hash that changes with the episode's file, its frame times and the encoder's config."""
        return self.key

    def with_statistics(self, statistics: FeatureStatistics | None) -> "CachedEpisode":
        """Return the same episode with other statistics; None gives raw features."""
        return replace(self, statistics=statistics)


class FeatureCache:
    """Cache on disk of the features of episodes under one encoder.

    Args:
        encoder: its network is loaded only if an episode must be encoded; its statistics normalise what is read.
        folder: the cache folder, created if necessary; several encoders may share it.
        progress: show a progress bar, and the expected size, on standard error.

    Raises:
        DilaError: the encoder is not a `FrozenEncoder`.
    """

    def __init__(self, encoder: FrozenEncoder, folder: str | Path, *, progress: bool = True):
        if not isinstance(encoder, FrozenEncoder):
            raise DilaError(
                f"features of a {type(encoder).__name__} cannot be cached; give an encoder that is a FrozenEncoder"
            )
        self.encoder, self.statistics, self.config = encoder.with_statistics(None), encoder.statistics, encoder.config()
        identity = _canonical(encoder.identity())
        self.folder = at_home(folder) / f"{self.config['name']}-{_digest(identity)[:12]}"
        self._encoder_key = identity + encoder.weights()
        self.progress = progress
        self.skipped: dict[str, str] = {}
        """Ids of the episodes that the last call could not read, with the reason."""

    def episodes(self, episodes: Sequence[Episode]) -> list[CachedEpisode]:
        """Return the cached form of each episode, in order; missing ones are encoded first. Safe to interrupt.

        An unreadable episode is omitted, logged, and listed in `skipped` with the reason.

        Raises:
            DilaError: too little disk space.
        """
        keys = self._keys(episodes)
        missing = self._missing(episodes, keys)
        if missing:
            self._encode(missing)
        index = stored(self.folder)
        told = zip(episodes, keys, strict=True)
        return [self._cached(e, key, index) for e, key in told if key is not None and _complete(e, key, index)]

    def missing(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Return the episodes that are not completely in the cache; unreadable ones are in `skipped` instead."""
        return [episode for episode, _ in self._missing(episodes, self._keys(episodes))]

    def size_of(self, frames: int) -> int:
        """Return the size on disk of this many frames, in bytes."""
        return frames * BYTES_PER_NUMBER * prod(self.encoder.grid) * self.encoder.feature_dim

    def check_room(self, episodes: Sequence[Episode]) -> None:
        """Check that there is enough disk space for these episodes, and print the size needed.

        Raises:
            DilaError: too little disk space.
        """
        if not episodes:
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        frames = sum(len(episode.times) for episode in episodes)
        need, free, count = self.size_of(frames), shutil.disk_usage(self.folder).free, len(episodes)
        if need > free:
            raise DilaError(
                f"the feature cache needs {_gigabytes(need)} for {frames} frames, but {self.folder} has only "
                f"{_gigabytes(free)} free; choose a cache folder on a larger disk or cache fewer episodes"
            )
        if self.progress:
            tqdm.write(f"caching features of {count} episodes, {frames} frames: {_gigabytes(need)} in {self.folder}")

    def _missing(self, episodes: Sequence[Episode], keys: Sequence[str | None]) -> list[tuple[Episode, str]]:
        index, told = stored(self.folder), zip(episodes, keys, strict=True)
        return [(e, key) for e, key in told if key is not None and not _complete(e, key, index)]

    def _cached(self, episode: Episode, key: str, index: Mapping[str, Any]) -> CachedEpisode:
        shards = tuple(index[_piece_key(key, piece)][0] for piece in range(_pieces(episode)))
        return CachedEpisode(episode.id, episode.times, episode.columns, shards, key, self.statistics)

    def _keys(self, episodes: Sequence[Episode]) -> list[str | None]:
        """Return the keys by position, since ids are unique only within a corpus; None for an unreadable episode."""
        self.skipped = {}
        return [self._key_or_skip(episode) for episode in episodes]

    def _key_or_skip(self, episode: Episode) -> str | None:
        try:
            return self._key(episode)
        except Exception as error:  # whatever a reader raises affects only its episode
            refuse_shortage(error)
            self._skip(episode, error)
            return None

    def _key(self, episode: Episode) -> str:
        times = hashlib.sha256(np.ascontiguousarray(episode.times, dtype=np.float64).tobytes()).hexdigest()
        return _digest("\n".join([self._encoder_key, episode.id, episode.fingerprint(), times]))

    def _encode(self, missing: list[tuple[Episode, str]]) -> None:
        self._sweep()
        with replacing(self.folder / "encoder.json", shared=True) as partial:
            partial.write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        index = stored(self.folder)
        frames = sum(len(episode.times) for episode, _ in missing)
        self.check_room([episode for episode, _ in missing])
        pending: dict[str, Tensor] = {}
        with tqdm(total=frames, unit="frame", desc="encoding", disable=not self.progress) as bar:
            for episode, key in missing:
                try:
                    for piece, frames in _lacking(episode, key, index):
                        pending[_piece_key(key, piece)] = torch.cat(list(self._features(episode, frames, bar)))
                        if sum(x.nbytes for x in pending.values()) >= SHARD_BYTES:
                            self._write(pending)
                            pending = {}
                except _Unreadable as error:
                    self._skip(episode, error.reason)
        if pending:
            self._write(pending)

    def _features(self, episode: Episode, frames: range, bar: "tqdm[Any]") -> Iterator[Tensor]:
        for start in range(frames.start, frames.stop, READ_BATCH):
            indices = list(range(start, min(start + READ_BATCH, frames.stop)))
            try:
                read = episode.read(indices)
            except Exception as error:  # a damaged video may raise anything
                refuse_shortage(error)
                raise _Unreadable(error) from error
            yield self.encoder.encode(read[None])[0].to("cpu", torch.bfloat16)
            bar.update(len(indices))

    def _write(self, pending: dict[str, Tensor]) -> None:
        # Named after its contents, so that a repeated run overwrites a partial file instead of leaving it behind.
        path = self.folder / f"shard-{_digest(','.join(pending))[:16]}.safetensors"
        with replacing(path, shared=True) as partial:
            save_file(pending, partial)

    def _sweep(self) -> None:
        """Remove partial files of killed writers, except recent ones, which may still be in use."""
        for partial in self.folder.glob("*.partial"):
            with suppress(OSError):
                if time.time() - partial.stat().st_mtime > STALE:
                    partial.unlink()

    def _skip(self, episode: Episode, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}"
        self.skipped[episode.id] = reason
        _log.warning("episode %s cannot be read and is skipped: %s", episode.id, reason)


def fit_statistics_from(episodes: Sequence[CachedEpisode], frames: int = 4096) -> FeatureStatistics:
    """Fit per-channel statistics of raw features on about `frames` cached frames, spread evenly over the episodes.

    Raises:
        DilaError: there are no frames.
    """
    raw = [episode.with_statistics(None) for episode in episodes]
    return accumulate(raw[place].read(wanted) for place, wanted in some_frames(raw, frames))


def some_frames(episodes: Sequence[Episode], count: int) -> Iterator[tuple[int, list[int]]]:
    """Choose about `count` frames, spread evenly; yield an episode's position and some of its frame numbers."""
    step, first = max(1, sum(len(episode.times) for episode in episodes) // count), 0
    for place, episode in enumerate(episodes):
        wanted = list(range(first, len(episode.times), step))
        for start in range(0, len(wanted), READ_BATCH):
            yield place, wanted[start : start + READ_BATCH]
        first = (first - len(episode.times)) % step


class _Unreadable(Exception):
    """An episode's reader failed, as opposed to the encoder."""

    def __init__(self, reason: Exception):
        super().__init__(str(reason))
        self.reason = reason


def _pieces(episode: Episode) -> int:
    return max(1, -(-len(episode.times) // PIECE))


def _piece_key(key: str, piece: int) -> str:
    return f"{key}-{piece}" if piece else key


def _lacking(episode: Episode, key: str, index: Mapping[str, tuple[Path, int]]) -> Iterator[tuple[int, range]]:
    """Yield the pieces of an episode that are missing from the cache, with their frames."""
    for piece in range(_pieces(episode)):
        frames = range(piece * PIECE, min((piece + 1) * PIECE, len(episode.times)))
        if index.get(_piece_key(key, piece), ("", -1))[1] != len(frames):
            yield piece, frames


def _complete(episode: Episode, key: str, index: Mapping[str, tuple[Path, int]]) -> bool:
    return next(_lacking(episode, key, index), None) is None


def _canonical(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
