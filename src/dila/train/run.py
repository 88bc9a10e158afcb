"""Settings of a training run, as recipes return them and ``run.json`` stores them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from math import cos, pi
from typing import Any, Literal

from dila.configs import to_json
from dila.errors import DilaError, first_line
from dila.interop.bounds import check_bounds
from dila.interop.models import AnyConfig, kind_of
from dila.model.config import DiLAConfig
from dila.train.objectives import ActionConditioned, Objective, OneStep, Rollout
from dila.train.published import Published
from dila.train.ranges import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    AT_LEAST_2,
    BELOW_1,
    SHARE,
    check_ranges,
    check_sizes,
)  # fmt: skip

AnyObjective = OneStep | Rollout | ActionConditioned | Published | Objective
Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class ClipSettings:
    """How clips are cut.

    Args:
        frames: frames per clip, T, at least 2.
        stride: seconds between frames.
        hop: raw frames between the starts of consecutive clips.
        held_out: share of the episodes held out. The split depends on their ids only, so runs are comparable.
        fps: frames per second; overrides the rate stated in the files.
        camera: read only this camera of multi-camera recordings.
        relative: components of the state to subtract from true actions that are positions, see `dila.data.relative`.
    """

    frames: int = 16
    stride: float = 0.2
    hop: int = 1
    held_out: float = 0.1
    fps: float | None = None
    camera: str | None = None
    relative: tuple[str, ...] = ()

    def __post_init__(self):
        check_ranges(self, "clips.", frames=AT_LEAST_2, stride=ABOVE_0, hop=AT_LEAST_1, held_out=BELOW_1, fps=ABOVE_0)


@dataclass(frozen=True)
class Optimiser:
    """AdamW and its learning rate.

    Args:
        lr: peak learning rate; a stage may override it.
        betas: betas of AdamW.
        weight_decay: weight decay of AdamW.
        warmup: steps of linear warm-up at the start of the run.
        schedule: learning rate schedule of the whole run, after warm-up.
        hold: share of the steps after warm-up to stay at the peak before the cosine begins.
        floor: final learning rate of the cosine, as a fraction of the peak.
        clip: maximum global norm of the gradient; inf disables clipping.
        decay_norms: also apply weight decay to norms, biases and the memory's ``A_log`` and ``D``, as in the paper.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-5
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    hold: float = 0.0
    floor: float = 0.0
    clip: float = 6.0
    decay_norms: bool = False

    def __post_init__(self):
        check_ranges(
            self, "optimiser.", lr=AT_LEAST_0, betas=BELOW_1, weight_decay=AT_LEAST_0, warmup=AT_LEAST_0, hold=BELOW_1,
            floor=AT_LEAST_0, clip=ABOVE_0,
        )  # fmt: skip

    def rate(self, step: int, steps: int, peak: float | None = None) -> float:
        """Learning rate of a step, counted from 0, in a run of `steps`; stateless, so nothing needs to be saved."""
        peak = self.lr if peak is None else peak
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        if self.schedule == "constant":
            return peak
        done = (step - self.warmup) / max(1, steps - self.warmup)
        fallen = max(0.0, done - self.hold) / (1 - self.hold)
        return peak * (self.floor + (1 - self.floor) * 0.5 * (1 + cos(pi * min(1.0, fallen))))


@dataclass(frozen=True)
class Stage:
    """Some steps under one objective. The optimiser's moments and the position in the order of clips carry over to
    the next stage.

    The released code starts each stage with a fresh AdamW, whose first steps, without warm-up, are all of full size
    whatever the gradient: see docs/deviations.md.

    Args:
        objective: the loss; from Python, also your own, a dataclass whose fields JSON can represent.
        steps: optimiser steps.
        lr: peak learning rate, if it differs from the run's; the run's schedule applies to it.
        frames: clip length, if it differs from the run's.
        name: name in the log; default: that of the objective.
    """

    objective: AnyObjective
    steps: int
    lr: float | None = None
    frames: int | None = None
    name: str | None = None

    @property
    def title(self) -> str:
        """Name in the log."""
        return self.name or type(self.objective).__name__


@dataclass(frozen=True)
class DecoderRun:
    """Training of a light convolutional decoder, which draws the world model's predictions.

    Args:
        steps: optimiser steps, with a cosine schedule to 0.
        batch: frames per step.
        lr: peak learning rate of AdamW.
        warmup: steps of linear warm-up.
        frames: number of training frames, spread evenly over the training episodes; they are kept in memory.
        size: size of its pictures, in pixels a side.
        width: channels at full resolution; each coarser level has twice as many, up to `max_width`.
        max_width: maximum number of channels.
        blocks: residual blocks per level.
        foreground: weight of pixels that differ between frames, see `dila.vision.decoder_loss`.
        edges: weight of the loss on edges.
        precision: precision of the forward pass.
        seed: random seed of weights and order of frames.
    """

    steps: int = 1600
    batch: int = 8
    lr: float = 6e-3
    warmup: int = 50
    frames: int = 8192
    size: int = 128
    width: int = 32
    max_width: int = 128
    blocks: int = 1
    foreground: float = 8.0
    edges: float = 1.0
    precision: Precision = "bf16"
    seed: int = 0

    def __post_init__(self):
        counts = dict.fromkeys(("steps", "batch", "frames", "size", "width", "max_width"), AT_LEAST_1)
        rest = dict.fromkeys(("lr", "warmup", "blocks", "foreground", "edges", "seed"), AT_LEAST_0)
        check_ranges(self, "decoder.", **counts, **rest)


@dataclass(frozen=True)
class Guard:
    """When a run stops because its latents have collapsed, and which steps it skips.

    Args:
        scale: standard deviation of z or s below which it counts as collapsed.
        perplexity: perplexity of the codes in a batch below which they count as collapsed; 1 if all are the same.
        patience: consecutive logged steps, after warm-up, or consecutive skipped steps, after which the run stops.
        spike: skip steps whose gradient norm exceeds this multiple of the median of the last hundred, or is not finite,
            and count them in the log; None skips none and ends the run at the first that is not finite.
    """

    scale: float = 1e-3
    perplexity: float = 1.01
    patience: int = 5
    spike: float | None = None

    def __post_init__(self):
        check_ranges(self, "guard.", scale=AT_LEAST_0, perplexity=AT_LEAST_0, patience=AT_LEAST_1, spike=ABOVE_0)

    def dead(self, watched: Mapping[str, float]) -> dict[str, float]:
        """Return the logged numbers that are below their bound, with that bound."""
        least = {"scale_s": self.scale, "scale_z": self.scale, "perplexity": self.perplexity}
        return {name: bound for name, bound in least.items() if watched.get(name, bound) < bound}


@dataclass(frozen=True)
class Run:
    """Everything that defines a training run, except the data and the output folder.

    Args:
        name: name of the run.
        model: the architecture; grid and channels are taken from the encoder.
        encoder: description of the frozen encoder, see `dila.vision.build_encoder`.
        stages: training stages, in order.
        clips: how the data is cut into clips.
        optimiser: AdamW and its learning rate.
        batch: clips per optimiser step, over all processes.
        accumulate: number of parts in which a batch is computed, to save memory. Diversity, motion weights and the
            threshold of symmetry are computed per part; the usage of codes is counted over all parts.
        precision: precision of the forward pass; "bf16" is autocast, also on the CPU. Weights are always fp32.
        seed: random seed of weights, dropout and the order of clips.
        log_every: steps between log entries.
        evaluate_every: steps between evaluations; the last step is always evaluated.
        evaluate_clips: number of held-out clips to evaluate on, always the same ones.
        checkpoint_minutes: minutes between checkpoints.
        checkpoint_every: steps between additional checkpoints.
        keep: number of newest checkpoints to keep.
        cache: encode the data once to disk, instead of in every step.
        decoder: train a decoder first, which draws the pictures; None trains none.
        guard: when to stop because latents have collapsed; None never stops.
        statistics: file of statistics to normalise features with, such as a RAE's ``stat.pt``; None fits them to the
            training frames. ``run.json`` keeps its hash.
        start: trained model to start from (folder, run or Hub id); its encoder, statistics and sizes are then used.
        trackers: additional destinations of the log, besides ``log.jsonl``: tensorboard (skipped if not installed),
            wandb, trackio, or another of `dila.train.log.TRACKERS`.
        compile: compile each layer with torch.compile; takes a minute at the start, worthwhile on a GPU.
        graph: on CUDA and in one process, record the forward and backward pass once as a CUDA graph and replay it; this
            makes small models several times faster, see `dila.train.recorded`. Has no effect with a codebook.
        recompute: gradient checkpointing: keep only each layer's input and run the layer again in the backward pass;
            about a third more work, much less memory, the same gradients.
        workers: number of processes that read data; 0 reads in the training process.
        hold: gigabytes of cached features to keep on a GPU; if there are more, clips are read one by one.
        weights: sampling weight of each data set, in their order, with any sum; None draws every clip once.
        tolerate: share of unreadable clips above which the run stops.
        deterministic: use only bit-reproducible algorithms, which are slower on GPUs.
        shard: with several processes, divide weights, gradients and moments between them (FSDP2), for models that do
            not fit on one device; see `dila.train.spread`.
    """

    name: str
    model: AnyConfig
    encoder: dict[str, Any]
    stages: tuple[Stage, ...]
    clips: ClipSettings = field(default_factory=ClipSettings)
    optimiser: Optimiser = field(default_factory=Optimiser)
    batch: int = 32
    accumulate: int = 1
    precision: Precision = "bf16"
    seed: int = 0
    log_every: int = 10
    evaluate_every: int = 500
    evaluate_clips: int = 16
    checkpoint_minutes: float = 10.0
    checkpoint_every: int | None = None
    keep: int = 2
    cache: bool = True
    decoder: DecoderRun | None = None
    guard: Guard | None = field(default_factory=Guard)
    statistics: str | None = None
    start: str | None = None
    trackers: tuple[str, ...] = ("tensorboard",)
    compile: bool = False
    graph: bool = False
    recompute: bool = False
    workers: int = 0
    hold: float = 2.0
    weights: tuple[float, ...] | None = None
    tolerate: float = 0.1
    deterministic: bool = False
    shard: bool = False

    def __post_init__(self):
        if not self.stages:
            raise DilaError(f"run {self.name}: stages is empty; give at least one Stage")
        if self.start and self.statistics:
            raise DilaError(f"run {self.name}: the model in start has its own statistics; remove statistics")
        if self.graph and self.recompute:
            raise DilaError(f"run {self.name}: graph cannot be combined with recompute; remove one of them")
        where = f"run {self.name}: "
        check_ranges(self, where, **dict.fromkeys(_COUNTS, AT_LEAST_1), **dict.fromkeys(_AMOUNTS, AT_LEAST_0))
        check_ranges(self, where, tolerate=SHARE)
        check_sizes(self.model, f"{where}model.")
        for part in ("model", "encoder"):  # out-of-bounds values would make the trained model unloadable
            check_bounds(to_json(getattr(self, part)), f"{where}{part}", "choose one that is")
        for i, stage in enumerate(self.stages):
            check_ranges(stage, f"{where}stages.{i}.", steps=AT_LEAST_1, lr=AT_LEAST_0, frames=AT_LEAST_2)
            self._check_objective(i, stage.objective)
            needed = stage.objective.context + 1 if isinstance(stage.objective, ActionConditioned) else 2
            if self.clip_frames(stage) < needed:
                raise DilaError(f"{where}stages.{i} needs clips of {needed} frames or more; raise frames")

    def _check_objective(self, i: int, objective: AnyObjective) -> None:
        try:
            if not is_dataclass(objective) or not callable(objective):
                raise TypeError("not a dataclass with a __call__")
            json.dumps(to_json(objective))
        except (TypeError, ValueError, NameError) as error:
            raise DilaError(
                f"run {self.name}: stages.{i}.objective cannot be stored in run.json ({first_line(error)}); make it a "
                "dataclass with a __call__, whose fields are numbers, strings, lists and dataclasses of these"
            ) from error
        kind, dila = kind_of(self.model), isinstance(self.model, DiLAConfig)
        if type(objective) in ((Published,) if dila else (OneStep, Rollout, ActionConditioned)):
            fitting = "OneStep, Rollout or ActionConditioned" if dila else "Published"
            raise DilaError(
                f"run {self.name}: stages.{i}.objective is {type(objective).__name__}, which does not fit a model "
                f"of kind {kind}; use {fitting}, or your own objective"
            )

    @property
    def steps(self) -> int:
        """Total number of steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def clip_frames(self, stage: Stage) -> int:
        """Clip length of a stage."""
        return stage.frames or self.clips.frames

    @property
    def uses_actions(self) -> bool:
        """Whether any stage uses real actions."""
        return any(isinstance(stage.objective, ActionConditioned) for stage in self.stages)


_COUNTS = ("batch", "accumulate", "log_every", "evaluate_every", "evaluate_clips", "checkpoint_every", "keep")
_AMOUNTS = ("seed", "checkpoint_minutes", "workers", "hold")
