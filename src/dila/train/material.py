"""Data of a run: open, split and encode episodes, and make batches of clips on the device."""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dila.data import (
    Clip,
    Clips,
    Corpus,
    EpochSampler,
    Mixture,
    load_clips,
    name_data,
    open_corpus,
    split_episodes,
)  # fmt: skip
from dila.data.order import check_weights
from dila.data.relative import relative_actions
from dila.errors import DilaError
from dila.nn.real_actions import mean_and_std
from dila.protocols import Episode
from dila.shapes import Actions, Float, Frames, Tensor
from dila.train.faults import LostWorker, between_reads, with_workers
from dila.train.objectives import ActionConditioned, Batch
from dila.train.run import Run, Stage
from dila.vision import (
    CachedEpisode,
    FeatureCache,
    FeatureStatistics,
    FrozenEncoder,
    HeldEpisode,
    fit_statistics,
    fit_statistics_from,
    hold,
)  # fmt: skip
from dila.vision.held import size

_log = logging.getLogger(__name__)

STATISTICS_FRAMES = 4096
READ = 64
"""Frames decoded at once while statistics are fitted without a cache."""


class Split(NamedTuple):
    """One data set of a run."""

    name: str
    train: Sequence[Any]
    """Episodes to cut clips from: of features if the run caches them, else of frames."""
    held_out: Sequence[Any]
    train_frames: Sequence[Any]
    """The same episodes, always of frames."""
    held_out_frames: Sequence[Any]


class Material(NamedTuple):
    """The data of a run."""

    encoder: FrozenEncoder
    """Encoder with feature statistics."""
    splits: tuple[Split, ...]
    """One per data set."""

    @property
    def train(self) -> list[Any]:
        """Training episodes of all data sets."""
        return [episode for split in self.splits for episode in split.train]

    @property
    def train_frames(self) -> list[Any]:
        """The same episodes, always of frames."""
        return [episode for split in self.splits for episode in split.train_frames]


def default_cache() -> Path:
    """Default folder of cached features: ``$DILA_CACHE``, or ``dila/features`` in the user's cache folder."""
    named = os.environ.get("DILA_CACHE")
    return (
        Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dila" / "features"
    )


def open_data(run: Run, data: str | Path | Sequence[str | Path]) -> dict[str, Corpus]:
    """Open the corpora of a run, by name.

    Raises:
        DilaError: none is given, one cannot be read or is given twice, or the weights do not match.
    """
    paths = [str(path) for path in ([data] if isinstance(data, str | Path) else data)]
    if not paths:
        raise DilaError("data is empty; give the path of a video, a folder or a data set")
    if run.weights is not None:
        check_weights(run.weights, len(paths))
    clips = run.clips
    corpora = {
        name: open_corpus(path, clips.fps, clips.camera) for name, path in zip(name_data(paths), paths, strict=True)
    }
    if not clips.relative:
        return corpora
    return {name: relative_actions(corpus, clips.relative) for name, corpus in corpora.items()}


def resolve(run: Run, encoder: FrozenEncoder, corpora: Mapping[str, Corpus]) -> Run:
    """Fill in the fields of a run that depend on encoder and data, as stored in ``run.json``.

    Raises:
        DilaError: a data set has no clip, a stage needs actions that the data lacks, or the model has another action
            size.
    """
    _check_lengths(run, corpora)
    model = run.model.for_features(encoder.grid, encoder.feature_dim)
    if run.uses_actions:
        width = _action_width(run, corpora)
        if model.real_action_dim not in (None, width):
            raise DilaError(
                f"run {run.name}: model.real_action_dim = {model.real_action_dim}, but actions of "
                f"{', '.join(corpora)} have {width} numbers per transition; remove this setting"
            )
        model = replace(model, real_action_dim=width)
    statistics = encoder.statistics.hash if run.statistics and encoder.statistics else None
    return replace(run, model=model, encoder=encoder.config(), statistics=statistics)


def gather(
    run: Run,
    encoder: FrozenEncoder,
    corpora: Mapping[str, Corpus],
    cache_dir: Path,
    *,
    progress: bool = True,
) -> Material:
    """Split each corpus, cache its features if the run does, and fit statistics if the encoder has none.

    Raises:
        DilaError: no episode is readable, or there is no space for the cache.
    """
    frames = {name: split_episodes(corpus, run.clips.held_out) for name, corpus in corpora.items()}
    if not run.cache:
        if encoder.statistics is None:
            every = [episode for train, _ in frames.values() for episode in train]
            encoder = encoder.with_statistics(fit_statistics(encoder, _some_frames(every)))
        splits = [Split(name, train, held, train, held) for name, (train, held) in frames.items()]
        return Material(encoder, tuple(splits))
    cache = FeatureCache(encoder, cache_dir, progress=progress)
    splits = [_cached(name, cache, *its) for name, its in frames.items()]
    every = [episode for split in splits for episode in split.train]
    statistics = encoder.statistics or fit_statistics_from(every, STATISTICS_FRAMES)
    return Material(encoder.with_statistics(statistics), tuple(_normalised(split, statistics) for split in splits))


def _cached(name: str, cache: FeatureCache, train_frames: Sequence[Any], held_frames: Sequence[Any]) -> Split:
    train = cache.episodes(train_frames)
    if not train:
        raise DilaError(f"{name} has no readable episode to train on: {cache.skipped}")
    held_out = cache.episodes(held_frames)
    return Split(name, train, held_out, with_features(train_frames, train), with_features(held_frames, held_out))


def _normalised(split: Split, statistics: FeatureStatistics) -> Split:
    train, held_out = ([e.with_statistics(statistics) for e in part] for part in (split.train, split.held_out))
    return split._replace(train=train, held_out=held_out)


def held(material: Material, device: torch.device, gigabytes: float) -> Material:
    """Move cached training features to a device, if they fit into this many gigabytes."""
    encoder, frames = material.encoder, sum(len(e.times) for e in material.train if isinstance(e, CachedEpisode))
    if size(frames, encoder.grid, encoder.feature_dim) > gigabytes:
        return material
    return material._replace(
        splits=tuple(
            split._replace(train=[hold(e, device) if isinstance(e, CachedEpisode) else e for e in split.train])
            for split in material.splits
        )
    )


def cut(run: Run, episodes: Sequence[Episode], frames: int, size: tuple[int, int] | None = None) -> Clips:
    """Cut clips of `frames` frames at the run's stride."""
    return Clips(episodes, frames, run.clips.stride, run.clips.hop, size)


def mix(run: Run, parts: Mapping[str, Sequence[Episode]], frames: int, size: tuple[int, int] | None = None) -> Mixture:
    """Cut clips of several data sets as `cut` does.

    Raises:
        DilaError: a data set has no clip.
    """
    cuts = {}
    for name, episodes in parts.items():
        try:
            cuts[name] = cut(run, episodes, frames, size)
        except DilaError as error:
            raise DilaError(f"{name}: {error}") from error
    return Mixture(cuts, run.seed)


def action_statistics(episodes: Sequence[Episode], repeats: int) -> tuple[Tensor, Tensor]:
    """`mean_and_std` of the true actions of transitions of `repeats` raw frames.

    Rows with NaN are left out: the action of an episode's last frame may be NaN.
    """
    rows = torch.cat([torch.as_tensor(episode.columns["action"]) for episode in episodes])
    mean, std = mean_and_std(rows[~rows.isnan().any(1)])
    return mean.repeat(repeats), std.repeat(repeats)


def fingerprint(splits: Sequence[Split]) -> str:
    """Hash of the ids and lengths of the training episodes."""
    told = "\n\n".join("\n".join(f"{e.id} {len(e.times)}" for e in split.train) for split in splits)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


class Batches:
    """Endless batches of one stage for one process; the state counts only batches that were used.

    Args:
        run: resolved run, see `resolve`.
        stage: stage, which may set its own clip length.
        material: data of the run.
        device: device of the batches.
        rank: rank of this process.
        world: number of processes.

    Raises:
        DilaError: the batch is not divisible by processes times parts, or the data has fewer clips than one batch.
    """

    def __init__(self, run: Run, stage: Stage, material: Material, device: torch.device, rank: int = 0, world: int = 1):
        if run.batch % (world * run.accumulate):
            raise DilaError(
                f"batch = {run.batch} is not a multiple of {world} process(es) times accumulate = {run.accumulate}; "
                "choose a multiple"
            )
        self.batch, self.share = run.batch, run.batch // world
        self.first = rank * self.share
        self.encoder, self.device = material.encoder, device
        self.actions = isinstance(stage.objective, ActionConditioned)
        training = {split.name: split.train for split in material.splits}
        clips = mix(run, training, run.clip_frames(stage), frame_size(material.encoder))
        if self.actions:
            _check_actions(clips)
        self.sampler = EpochSampler(clips.lengths, self.share, run.seed, rank, world, run.weights)
        self.parts = run.accumulate
        self.skipped: list[str] = []
        # Episodes on a device cannot be read by other processes, and need no pinned memory.
        on_device = any(isinstance(episode, HeldEpisode) for episode in material.train)
        workers = 0 if on_device else run.workers
        self.loader = load_clips(
            clips,
            self.share // self.parts,
            self.sampler,
            workers,
            pin=device.type == "cuda" and not on_device,
            # A separate generator: the loader draws a seed per epoch, which would advance the global one on resume.
            generator=torch.Generator().manual_seed(run.seed),
        )

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the parts of each optimiser step; call `used` after each step.

        Raises:
            DilaError: clips cannot be read, and neither can replacements.
            LostWorker: a data worker process died.
        """
        while True:
            parts: list[Batch] = []
            try:
                with with_workers():
                    for clip in self.loader:
                        self.skipped += clip.skipped
                        parts.append(self._batch(clip, len(parts)))
                        if len(parts) == self.parts:
                            with between_reads():
                                yield parts
                            parts = []
            except LostWorker:
                raise
            except DilaError as error:
                raise DilaError(_sentence(error)) from error

    def used(self) -> list[str]:
        """Mark the last step as done; returns the clips that were skipped for it, with the reasons."""
        self.sampler.advance(self.share)
        skipped, self.skipped = self.skipped, []
        return skipped

    def _batch(self, clip: Clip, part: int) -> Batch:
        e = features(clip.frames, self.encoder, self.device)
        a = flat_actions(clip).to(self.device) if self.actions else None
        place = self.first + part * len(e) + torch.arange(len(e), device=self.device)
        return Batch(e, a, (place + 0.5) / self.batch)


def _sentence(error: DilaError) -> str:
    """Message of an error, without the traceback that a loader's worker adds."""
    return str(error).strip().splitlines()[-1].removeprefix(f"{DilaError.__module__}.{DilaError.__name__}: ")


def features(frames: Frames | Float[Tensor, "B T H W D"], encoder: FrozenEncoder, device: torch.device) -> Tensor:
    """Encode a clip on the device; clips of features are only moved."""
    # Only CUDA copies come from pinned memory; others must finish first, as a worker may reuse the buffer.
    frames = frames.to(device, non_blocking=device.type == "cuda")
    return encoder.encode(frames) if frames.dtype == torch.uint8 else frames


def flat_actions(clip: Clip) -> Actions:
    """Concatenate the raw actions of each transition, ``B K n A`` to ``B K (n A)``."""
    return clip.columns["action"].flatten(2).float()


def frame_size(encoder: FrozenEncoder) -> tuple[int, int]:
    """Frame size, rows and columns, that clips are resized to: the input size of the encoder."""
    return encoder.resize.size


def _check_lengths(run: Run, corpora: Mapping[str, Corpus]) -> None:
    """Check early that each data set has a clip long enough for the run; warn about episodes that are too short."""
    frames = max(run.clips.frames, *(run.clip_frames(stage) for stage in run.stages))
    for name, corpus in corpora.items():
        train, held_out = split_episodes(corpus, run.clips.held_out)
        try:
            short = cut(run, train, frames).too_short
        except DilaError as error:
            raise DilaError(
                f"{name}: {error} (among {len(train)} training episodes; clips.held_out holds out {len(held_out)})"
            ) from error
        if short:
            _log.warning(
                "%s: %d of the %d training episodes have no clip; the first, %s, %s",
                name, len(short), len(train), short[0].id, short[0].reason,
            )  # fmt: skip


def _action_width(run: Run, corpora: Mapping[str, Corpus]) -> int:
    stage = next(stage for stage in run.stages if isinstance(stage.objective, ActionConditioned))
    training = {name: split_episodes(corpus, run.clips.held_out)[0] for name, corpus in corpora.items()}
    clips = mix(run, training, run.clip_frames(stage))
    _check_actions(clips)
    return prod(clips.column_shapes["action"][1:])


def _check_actions(clips: Mixture) -> None:
    if "action" not in clips.column_shapes:
        why = clips.dropped.get("action", "no episode has them")
        raise DilaError(
            f"the action-conditioned stage needs true actions in actions.parquet beside the data, but {why}"
        )
    episodes = ((name, e) for name, part in zip(clips.names, clips.parts, strict=True) for e in part.episodes)
    for name, episode in episodes:
        unknown = ~np.isfinite(episode.columns["action"][:-1]).all(axis=1)
        if unknown.any():
            raise DilaError(
                f"{name}: {int(unknown.sum())} actions of {episode.id} are not finite, the first at frame "
                f"{int(unknown.argmax())}, but the action-conditioned stage needs all of them; fix them, or remove "
                "the episode"
            )


def _some_frames(episodes: Sequence[Episode]) -> Iterator[Frames]:
    step = max(1, sum(len(episode.times) for episode in episodes) // STATISTICS_FRAMES)
    for episode in episodes:
        wanted = list(range(0, len(episode.times), step))
        for start in range(0, len(wanted), READ):
            yield episode.read(wanted[start : start + READ])[None]


def with_features(episodes: Sequence[Episode], cached: Sequence[Any]) -> list[Episode]:
    """Return the episodes whose features are in the cache."""
    there = {episode.id for episode in cached}
    return [episode for episode in episodes if episode.id in there]
