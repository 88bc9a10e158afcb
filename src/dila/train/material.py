"""What a run trains on: episodes found, split and encoded, clips in their order, batches on the device."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from dila.data import Clip, Clips, Corpus, EpochSampler, collate_clips, open_corpus, split_episodes
from dila.errors import DilaError
from dila.protocols import Episode
from dila.shapes import Actions, Float, Frames, Tensor
from dila.train.objectives import ActionConditioned, Batch
from dila.train.run import Run, Stage
from dila.vision import FeatureCache, FrozenEncoder, fit_statistics, fit_statistics_from

STATISTICS_FRAMES = 4096
READ = 64
"""Frames of an episode held decoded at once while statistics are fitted without a cache."""


class Material(NamedTuple):
    """The data of a run."""

    encoder: FrozenEncoder
    """With statistics of the training episodes."""
    train: Sequence[Any]
    """Episodes that clips are cut from: features where the run caches them, else frames."""
    held_out: Sequence[Any]
    train_frames: Sequence[Any]
    """The same episodes, always frames."""
    held_out_frames: Sequence[Any]


def default_cache() -> Path:
    """Where features are cached if nothing else is said: ``$DILA_CACHE``, or ``dila`` in the user's cache folder."""
    named = os.environ.get("DILA_CACHE")
    return (
        Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dila" / "features"
    )


def open_episodes(run: Run, data: str | Path) -> Corpus:
    """The corpus of a run."""
    return open_corpus(data, run.clips.fps)


def resolve(run: Run, encoder: FrozenEncoder, corpus: Corpus) -> Run:
    """The run with everything filled in that encoder and data decide: as ``run.json`` keeps it.

    Raises:
        DilaError: a stage needs actions that the data does not have, or a model of another action size.
    """
    model = run.model.for_features(encoder.grid, encoder.feature_dim)
    if run.uses_actions:
        width = _action_width(run, corpus)
        if model.real_action_dim not in (None, width):
            raise DilaError(
                f"run {run.name}: model.real_action_dim = {model.real_action_dim}, but a transition of {corpus.root} "
                f"has {width} numbers of action; leave it out"
            )
        model = replace(model, real_action_dim=width)
    return replace(run, model=model, encoder=encoder.config())


def gather(
    run: Run,
    encoder: FrozenEncoder,
    corpus: Corpus,
    cache_dir: Path,
    *,
    progress: bool = True,
) -> Material:
    """Split the corpus, cache its features where the run does, and fit statistics where the encoder has none.

    Raises:
        DilaError: nothing readable, or no room for the cache.
    """
    train_frames, held_frames = split_episodes(corpus, run.clips.held_out)
    if not run.cache:
        if encoder.statistics is None:
            encoder = encoder.with_statistics(fit_statistics(encoder, _some_frames(train_frames)))
        return Material(encoder, train_frames, held_frames, train_frames, held_frames)
    cache = FeatureCache(encoder, cache_dir, progress=progress)
    train, held_out = cache.episodes(train_frames), cache.episodes(held_frames)
    if not train:
        raise DilaError(f"{corpus.root} has no readable episode to train on: {cache.skipped}")
    statistics = encoder.statistics or fit_statistics_from(train, STATISTICS_FRAMES)
    return Material(
        encoder.with_statistics(statistics),
        [episode.with_statistics(statistics) for episode in train],
        [episode.with_statistics(statistics) for episode in held_out],
        _same(train_frames, train),
        _same(held_frames, held_out),
    )


def cut(run: Run, episodes: Sequence[Episode], frames: int, size: tuple[int, int] | None = None) -> Clips:
    """Clips of `frames` frames at the run's stride."""
    return Clips(episodes, frames, run.clips.stride, run.clips.hop, size)


def action_statistics(episodes: Sequence[Episode], repeats: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each component of the true actions of a transition of `repeats` raw frames.

    Rows that are not known in full do not count: NaN stands for the action of a last frame, which moves nothing seen.
    """
    rows = torch.cat([torch.as_tensor(episode.columns["action"]).double() for episode in episodes])
    rows = rows[~rows.isnan().any(1)]
    return rows.mean(0).float().repeat(repeats), rows.std(0).float().repeat(repeats)


def fingerprint(episodes: Sequence[Episode]) -> str:
    """Changes with the episodes that are trained on."""
    told = "\n".join(f"{episode.id} {len(episode.times)}" for episode in episodes)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


class Batches:
    """The batches of one stage in one process, without end; its state is what has been used.

    Args:
        run: resolved.
        stage: whose clip length counts.
        material: the data.
        device: where batches go.
        rank: this process.
        world: number of processes.

    Raises:
        DilaError: the batch does not divide among processes and parts, or the data has too few clips for one.
    """

    def __init__(self, run: Run, stage: Stage, material: Material, device: torch.device, rank: int = 0, world: int = 1):
        if run.batch % (world * run.accumulate):
            raise DilaError(
                f"batch = {run.batch} does not divide among {world} process(es) times accumulate = {run.accumulate}; "
                "choose a multiple"
            )
        self.share = run.batch // world
        self.encoder, self.device = material.encoder, device
        self.actions = isinstance(stage.objective, ActionConditioned)
        clips = cut(run, material.train, run.clip_frames(stage), frame_size(material.encoder))
        if self.actions:
            _check_actions(clips)
        self.sampler = EpochSampler(len(clips), self.share, run.seed, rank, world)
        self.parts = run.accumulate
        self.loader = DataLoader(
            clips,
            batch_size=self.share // self.parts,
            sampler=self.sampler,
            num_workers=run.workers,
            persistent_workers=run.workers > 0,
            collate_fn=collate_clips,
            pin_memory=device.type == "cuda",
            # Of its own: a loader draws a seed each epoch, which from the global generator would undo exact resuming.
            generator=torch.Generator().manual_seed(run.seed),
        )

    def __iter__(self) -> Iterator[list[Batch]]:
        """The parts of one optimiser step after another. A step counts as used once the next is asked for."""
        while True:
            parts: list[Batch] = []
            for clip in self.loader:
                parts.append(self._batch(clip))
                if len(parts) == self.parts:
                    yield parts
                    parts = []

    def used(self) -> None:
        """Report that the step last given has been taken."""
        self.sampler.advance(self.share)

    def _batch(self, clip: Clip) -> Batch:
        e = features(clip.frames, self.encoder, self.device)
        return Batch(e, flat_actions(clip).to(self.device) if self.actions else None)


def features(frames: Frames | Float[Tensor, "B T H W D"], encoder: FrozenEncoder, device: torch.device) -> Tensor:
    """What a clip holds, as features on the device."""
    frames = frames.to(device, non_blocking=True)
    return encoder.encode(frames) if frames.dtype == torch.uint8 else frames


def flat_actions(clip: Clip) -> Actions:
    """All numbers of the raw actions of a transition side by side, ``B K n A`` to ``B K (n A)``."""
    return clip.columns["action"].flatten(2).float()


def frame_size(encoder: FrozenEncoder) -> tuple[int, int]:
    """Rows and columns that frames are brought to before they stack: what the encoder reads anyway."""
    return encoder.resize.size


def _action_width(run: Run, corpus: Corpus) -> int:
    stage = next(stage for stage in run.stages if isinstance(stage.objective, ActionConditioned))
    clips = cut(run, split_episodes(corpus, run.clips.held_out)[0], run.clip_frames(stage))
    _check_actions(clips)
    return clips[0].columns["action"][0].numel()


def _check_actions(clips: Clips) -> None:
    if "action" in clips[0].columns:
        return
    why = clips.dropped.get("action", "no episode has any")
    raise DilaError(f"the action-conditioned stage needs true actions in actions.parquet beside the data, but {why}")


def _some_frames(episodes: Sequence[Episode]) -> Iterator[Frames]:
    step = max(1, sum(len(episode.times) for episode in episodes) // STATISTICS_FRAMES)
    for episode in episodes:
        wanted = list(range(0, len(episode.times), step))
        for start in range(0, len(wanted), READ):
            yield episode.read(wanted[start : start + READ])[None]


def _same(episodes: Sequence[Episode], cached: Sequence[Any]) -> list[Episode]:
    """The episodes that could be cached."""
    there = {episode.id for episode in cached}
    return [episode for episode in episodes if episode.id in there]
