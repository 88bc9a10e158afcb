"""Encode a whole corpus into the feature cache before training, here or on a Ray cluster.

Each worker of the cluster encodes a part of the episodes and writes its own shards. Episodes already in the cache are
skipped, so an interrupted run can be repeated.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from dila.data import open_corpus
from dila.errors import DilaError
from dila.imagine.cluster import EPISODES_PER_PART, Engine, count_frames, cut_parts, each_part
from dila.vision import FeatureCache, FrozenEncoder


class Encoded(NamedTuple):
    """State of the cache after encoding."""

    folder: Path
    episodes: int
    frames: int
    new: int
    """Episodes that were added."""
    skipped: dict[str, str]
    """Episodes that could not be read, with the reason."""


class _Part(NamedTuple):
    """Encodes some episodes; sent to a worker."""

    encoder: FrozenEncoder
    folder: Path

    def to(self, device: str) -> None:
        """Move the encoder."""
        self.encoder.to(device)

    def __call__(self, part: Sequence[Any]) -> dict[str, str]:
        """Add the episodes to the cache; return those that could not be read, with the reason."""
        cache = FeatureCache(self.encoder, self.folder, progress=False)
        cache.episodes(part)
        return cache.skipped


def encode_corpus(
    path: str | Path,
    encoder: FrozenEncoder,
    out: str | Path,
    *,
    fps: int | float | None = None,
    camera: str | None = None,
    engine: Engine = "local",
    workers: int = 2,
    part: int = EPISODES_PER_PART,
    progress: bool = True,
) -> Encoded:
    """Encode every episode under a path that is not in the cache yet.

    Args:
        path: path of the data, as for `dila.data.open_corpus`.
        encoder: without statistics: features are stored raw.
        out: folder of the cache; with a cluster, one that all machines share.
        fps: frames per second, overrides what the files state.
        camera: use only this camera of episodes recorded by several.
        engine: ``local``, or ``ray`` for a cluster.
        workers: processes on the cluster.
        part: maximum number of episodes per part, see `dila.imagine.cluster.cut_parts`.
        progress: show a progress bar on standard error.

    Raises:
        DilaError: no readable data, or too little disk space, which is checked first.
        MissingExtra: ``ray`` is not installed.
    """
    if part < 1:
        raise DilaError(f"part = {part} must be at least 1")
    corpus = open_corpus(path, fps, camera)
    cache = FeatureCache(encoder, out, progress=progress)
    missing = cache.missing(corpus.episodes)
    skipped = {s.path.as_posix(): s.reason for s in corpus.skipped} | cache.skipped
    cache.check_room(missing)
    with tqdm(total=count_frames(missing), unit="frame", desc="encoding", disable=not progress) as bar:
        work, parts = _Part(encoder, Path(out)), cut_parts(missing, part)
        for failed in each_part(work, parts, engine, workers, lambda each: bar.update(count_frames(each))):
            skipped |= failed
    kept = [episode for episode in corpus.episodes if episode.id not in skipped]
    if not kept:
        raise DilaError(f"{path} contains no readable video; the first was skipped: {next(iter(skipped.values()))}")
    lost = cache.missing(kept)
    if lost:
        raise DilaError(
            f"{len(lost)} episodes, the first {lost[0].id}, are missing from {cache.folder} after encoding; give a "
            "folder that all machines of the cluster share, and run again"
        )
    new = len([episode for episode in missing if episode.id not in skipped])
    return Encoded(cache.folder, len(kept), count_frames(kept), new, skipped)
