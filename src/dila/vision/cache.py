"""The feature cache: every frame is encoded once, and training reads features from disk with no encoder in memory.

A cache folder holds one folder an encoder config::

    <encoder name>-<hash of its config>/
        index.json               which episode is in which shard, rewritten whole after each shard
        shard-<hash>.safetensors raw features, bf16, [N, H, W, D], one tensor an episode

Features are stored raw: statistics can be fitted from the cache and changed without encoding again. An entry's key
hashes the episode's id, fingerprint and frame times, so what has changed is encoded anew and never read stale.
One process writes at a time; any number may read.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from dila.errors import DilaError
from dila.protocols import Episode
from dila.shapes import Float, Tensor
from dila.vision.encoder import FrozenEncoder
from dila.vision.statistics import FeatureStatistics, accumulate

READ_BATCH = 64
"""Frames of an episode held decoded in memory at once."""

SHARD_BYTES = 256 * 2**20
"""A shard is written when it holds this much: what a kill can lose, and what encoding holds in memory."""

BYTES_PER_NUMBER = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedEpisode:
    """An `Episode` whose frames are features: `read` gives ``N H W D``, normalised if there are statistics.

    Small and picklable: the features stay in the shard, which every process maps for itself.
    """

    id: str
    times: np.ndarray
    columns: Mapping[str, np.ndarray]
    shard: Path
    key: str
    statistics: FeatureStatistics | None = None

    def read(self, frames: Sequence[int]) -> Float[Tensor, "N H W D"]:
        """Features of the frames with these indices, in this order, float32; only their pages are read from disk.

        Raises:
            DilaError: the shard is gone or damaged.
        """
        try:
            stored = _open_shard(str(self.shard)).get_tensor(self.key)
        except Exception as error:  # safetensors raises its own, OSError and FileNotFoundError
            raise DilaError(
                f"the feature cache cannot read {self.shard}: {error}; delete it and cache again"
            ) from error
        e = stored[torch.as_tensor(np.asarray(frames, dtype=np.int64))].float()
        return e if self.statistics is None else self.statistics.normalise(e)

    def fingerprint(self) -> str:
        """Changes with the episode's file, its sampling and the encoder's config."""
        return self.key

    def with_statistics(self, statistics: FeatureStatistics | None) -> "CachedEpisode":
        """The same features under other statistics; None gives raw features."""
        return replace(self, statistics=statistics)


class FeatureCache:
    """Features of episodes under one encoder, on disk.

    Args:
        encoder: the encoder, or only its ``config()``, enough to read what is already there.
        folder: the cache folder, made when needed; several encoders may share it.
        statistics: what episodes are normalised by on reading; those of `encoder` when left out.
        progress: show a bar and a line of the expected size on standard error.
    """

    def __init__(
        self,
        encoder: FrozenEncoder | Mapping[str, Any],
        folder: str | Path,
        statistics: FeatureStatistics | None = None,
        *,
        progress: bool = True,
    ):
        self.encoder = encoder.with_statistics(None) if isinstance(encoder, FrozenEncoder) else None
        self.config = dict(encoder.config() if isinstance(encoder, FrozenEncoder) else encoder)
        self.statistics = (
            encoder.statistics if isinstance(encoder, FrozenEncoder) and statistics is None else statistics
        )
        self.folder = Path(folder) / f"{self.config['name']}-{_digest(_canonical(self.config))[:12]}"
        self.progress = progress
        self.skipped: dict[str, str] = {}
        """Episode ids that the last call could not read, with the reason."""

    def episodes(self, episodes: Sequence[Episode]) -> list[CachedEpisode]:
        """The cached form of each episode, in order; what is missing is encoded first. Safe to interrupt.

        An episode that cannot be read is left out, logged, and named in `skipped` with its reason.

        Raises:
            DilaError: features are missing and there is no encoder, or the disk has not the room for them.
        """
        self.skipped = {}
        keys = self._keys(episodes)
        index = self._read_index()
        missing = [(episode, keys[episode.id]) for episode in episodes if keys.get(episode.id, "") not in index]
        missing = [(episode, key) for episode, key in missing if key]
        if missing:
            self._encode(missing, index)
        return [
            CachedEpisode(
                e.id, e.times, e.columns, self.folder / index[keys[e.id]]["shard"], keys[e.id], self.statistics
            )
            for e in episodes
            if keys.get(e.id) in index
        ]

    def _keys(self, episodes: Sequence[Episode]) -> dict[str, str]:
        keys: dict[str, str] = {}
        for episode in episodes:
            try:
                keys[episode.id] = self._key(episode)
            except Exception as error:  # any reader's failure is that episode's alone
                self._skip(episode, error)
        return keys

    def _key(self, episode: Episode) -> str:
        times = hashlib.sha256(np.ascontiguousarray(episode.times, dtype=np.float64).tobytes()).hexdigest()
        return _digest("\n".join([_canonical(self.config), episode.id, episode.fingerprint(), times]))

    def _encode(self, missing: list[tuple[Episode, str]], index: dict[str, Any]) -> None:
        if self.encoder is None:
            raise DilaError(
                f"{len(missing)} episodes, the first {missing[0][0].id}, are not in the feature cache {self.folder}; "
                "build it with the encoder, not only with its config"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        frames = sum(len(episode.times) for episode, _ in missing)
        self._check_room(len(missing), frames)
        pending: dict[str, Tensor] = {}
        with tqdm(total=frames, unit="frame", desc="encoding", disable=not self.progress) as bar:
            for episode, key in missing:
                try:
                    pending[key] = torch.cat(list(self._features(episode, bar)))
                except _Unreadable as error:
                    self._skip(episode, error.reason)
                if sum(x.nbytes for x in pending.values()) >= SHARD_BYTES:
                    self._write(pending, index)
                    pending = {}
        if pending:
            self._write(pending, index)

    def _features(self, episode: Episode, bar: "tqdm[Any]") -> Iterator[Tensor]:
        assert self.encoder is not None
        for start in range(0, len(episode.times), READ_BATCH):
            indices = list(range(start, min(start + READ_BATCH, len(episode.times))))
            try:
                frames = episode.read(indices)
            except Exception as error:  # a damaged video raises whatever its decoder likes
                raise _Unreadable(error) from error
            yield self.encoder.encode(frames[None])[0].to("cpu", torch.bfloat16)
            bar.update(len(indices))

    def _check_room(self, episodes: int, frames: int) -> None:
        assert self.encoder is not None
        need = frames * BYTES_PER_NUMBER * self.encoder.grid[0] * self.encoder.grid[1] * self.encoder.feature_dim
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise DilaError(
                f"the feature cache needs {_gigabytes(need)} for {frames} frames but {self.folder} has "
                f"{_gigabytes(free)} free; choose a cache folder on a larger disk or cache fewer episodes"
            )
        if self.progress:
            tqdm.write(f"caching features of {episodes} episodes, {frames} frames: {_gigabytes(need)} in {self.folder}")

    def _write(self, pending: dict[str, Tensor], index: dict[str, Any]) -> None:
        # Named after its contents: a shard that a kill left out of the index is written over, not left behind.
        shard = f"shard-{_digest(','.join(pending))[:16]}.safetensors"
        partial = self.folder / f"{shard}.partial"
        save_file(pending, partial)
        os.replace(partial, self.folder / shard)
        index.update({key: {"shard": shard, "frames": len(x)} for key, x in pending.items()})
        text = json.dumps({"encoder": self.config, "entries": index}, indent=1)
        partial = self.folder / "index.json.partial"
        partial.write_text(text)
        os.replace(partial, self.folder / "index.json")

    def _read_index(self) -> dict[str, Any]:
        path = self.folder / "index.json"
        if not path.is_file():
            return {}
        try:
            entries = json.loads(path.read_text())["entries"]
        except (ValueError, KeyError) as error:
            raise DilaError(
                f"{path} is no index of a feature cache: {error}; delete its folder to encode anew"
            ) from error
        present = {entry["shard"] for entry in entries.values() if (self.folder / entry["shard"]).is_file()}
        return {key: entry for key, entry in entries.items() if entry["shard"] in present}

    def _skip(self, episode: Episode, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}"
        self.skipped[episode.id] = reason
        _log.warning("episode %s is skipped, it cannot be read: %s", episode.id, reason)


def fit_statistics_from(episodes: Sequence[CachedEpisode], frames: int = 4096) -> FeatureStatistics:
    """Per-channel statistics of raw features from about `frames` frames of the cache, evenly spread over the episodes.

    Raises:
        DilaError: there are no frames.
    """
    stride = max(1, sum(len(episode.times) for episode in episodes) // frames)
    return accumulate(_spread(episodes, stride))


def _spread(episodes: Sequence[CachedEpisode], stride: int) -> Iterator[Tensor]:
    first = 0
    for episode in episodes:
        indices = range(first, len(episode.times), stride)
        for start in range(0, len(indices), READ_BATCH):
            yield episode.with_statistics(None).read(indices[start : start + READ_BATCH])
        first = (first - len(episode.times)) % stride


class _Unreadable(Exception):
    """An episode's reader failed; not the encoder, whose failures are ours."""

    def __init__(self, reason: Exception):
        super().__init__(str(reason))
        self.reason = reason


@lru_cache(maxsize=64)
def _open_shard(path: str) -> Any:
    return safe_open(path, framework="pt")


def _canonical(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
