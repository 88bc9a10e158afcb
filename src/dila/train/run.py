"""A training run as a value: what a recipe returns, what ``run.json`` holds, what a resumed run is checked against."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from math import cos, pi
from typing import Any, Literal

from dila.configs import to_json
from dila.errors import DilaError, first_line
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
        frames: T, at least 2.
        stride: seconds between frames.
        hop: raw frames from one clip's start to the next one's.
        held_out: share of the episodes never trained on. The split depends on their ids alone, so runs compare.
        fps: frames a second, instead of what the files say.
        camera: of episodes that several cameras saw, this one alone.
        relative: components of the state that true actions are taken relative to, see `dila.data.relative`.
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
        lr: peak learning rate; a stage may name its own.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup: steps of linear warm-up at the start of the run.
        schedule: of the whole run, after warm-up.
        hold: share of the steps after warm-up that stay at the peak before the cosine begins.
        floor: where the cosine ends, as a fraction of the peak.
        clip: bound on the global norm of the gradient; inf for none.
        decay_norms: decay norms, biases and the memory's ``A_log`` and ``D`` as well (the paper's), or leave them out.
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
        """Learning rate of a step, counted from 0, of a run of `steps`: without state, so that it needs no saving."""
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
    """Some steps under one objective. The optimiser's moments and the place in the order of clips are kept from
    one stage to the next.

    The released code starts each stage with a fresh AdamW, whose first steps, without warm-up, are all of full size
    whatever the gradient: see docs/deviations.md.

    Args:
        objective: what is minimised; one of your own is a dataclass of what JSON holds, which a run from Python takes.
        steps: optimiser steps.
        lr: peak learning rate, where it is not the run's; the run's schedule applies to it.
        frames: clip length, where it is not the run's.
        name: in the log; by default the objective's.
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
    """Training of a light convolutional decoder beside the world model: what its pictures are drawn by.

    Args:
        steps: optimiser steps, cosine to 0.
        batch: frames.
        lr: peak learning rate of AdamW.
        warmup: steps of linear warm-up.
        frames: how many frames it learns from, evenly spread over the training episodes; they are held in memory.
        size: pixels a side of its pictures.
        width: channels next to the pixels; each coarser level has twice as many, up to `max_width`.
        max_width: channels at the feature grid at most.
        blocks: residual blocks a level.
        foreground: weight of what differs between frames, see `dila.vision.decoder_loss`.
        edges: weight of outlines.
        precision: of the forward pass.
        seed: of weights and order.
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
    """When a run stops by itself because its latents died, and which steps it leaves out.

    Args:
        scale: standard deviation of z or s below which it counts as dead.
        perplexity: of the codes in a batch, below which they count as dead; all the same is 1.
        patience: logged steps in a row, after warm-up; or steps in a row that were left out.
        spike: leave out steps whose gradient's norm is so many times the median of the last hundred, or not finite,
            and count them in the log; None leaves out none, and ends the run at the first that is not finite.
    """

    scale: float = 1e-3
    perplexity: float = 1.01
    patience: int = 5
    spike: float | None = None

    def __post_init__(self):
        check_ranges(self, "guard.", scale=AT_LEAST_0, perplexity=AT_LEAST_0, patience=AT_LEAST_1, spike=ABOVE_0)

    def dead(self, watched: Mapping[str, float]) -> dict[str, float]:
        """What of the logged numbers is below its bound, with the bound."""
        least = {"scale_s": self.scale, "scale_z": self.scale, "perplexity": self.perplexity}
        return {name: bound for name, bound in least.items() if watched.get(name, bound) < bound}


@dataclass(frozen=True)
class Run:
    """Everything that fixes a training run but the data and where it goes.

    Args:
        name: of the run.
        model: the architecture; grid and channels follow the encoder.
        encoder: description of the frozen encoder, see `dila.vision.build_encoder`.
        stages: one after the other.
        clips: how the data is cut.
        optimiser: AdamW.
        batch: clips of one optimiser step, over all processes.
        accumulate: parts that a batch is computed in, to save memory. Diversity, motion weights and symmetry's
            threshold are of a part; a codebook counts them as one.
        precision: of the forward pass; "bf16" is autocast, on the CPU too. Weights are always fp32.
        seed: of weights, dropout and the order of clips.
        log_every: steps.
        evaluate_every: steps; the last step is always evaluated.
        evaluate_clips: held-out clips, always the same.
        checkpoint_minutes: time between checkpoints.
        checkpoint_every: steps between checkpoints, besides.
        keep: how many checkpoints are kept, the newest.
        cache: encode the data once to disk, or in every step.
        decoder: train a decoder first, so that pictures show frames.
        guard: when to stop because latents died; None never does.
        statistics: file of what features are normalised by, such as a RAE's ``stat.pt``; fitted to training frames when
            None. ``run.json`` keeps its hash.
        start: a trained model to begin from (folder, run or Hub id); its encoder, statistics and sizes are then used.
        trackers: where the log goes besides ``log.jsonl``. TensorBoard is skipped when not installed.
        compile: each layer through torch.compile; a minute at the start, worth it on a GPU.
        graph: on CUDA and in one process, record forward and backward of a step once and replay it, which makes small
            models several times faster, see `dila.train.recorded`; models with a codebook run as they are.
        recompute: keep only each layer's input for the backward pass and run the layer again there: about a third more
            work, much less memory, the same gradients.
        workers: processes that read data; 0 reads in the training process.
        hold: gigabytes of cached features that are kept on a GPU; if there are more, clips are read one by one.
        weights: how often each data set is drawn from, in their order, whatever the sum; None draws every clip once.
        tolerate: share of the clips that may fail to be read before the run stops.
        deterministic: only algorithms that give the same bits each time, on GPUs too, where they are slower.
        shard: of several processes, each holds a part of weights, gradients and moments (FSDP2), see
            `dila.train.spread`; for models that do not fit one device otherwise.
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
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
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
            raise DilaError(f"run {self.name}: start brings its own statistics; leave out statistics")
        if self.graph and self.recompute:
            raise DilaError(f"run {self.name}: graph cannot record layers that are run again; leave out recompute")
        where = f"run {self.name}: "
        check_ranges(self, where, **dict.fromkeys(_COUNTS, AT_LEAST_1), **dict.fromkeys(_AMOUNTS, AT_LEAST_0))
        check_ranges(self, where, tolerate=SHARE)
        check_sizes(self.model, f"{where}model.")
        for i, stage in enumerate(self.stages):
            check_ranges(stage, f"{where}stages.{i}.", steps=AT_LEAST_1, lr=AT_LEAST_0, frames=AT_LEAST_2)
            self._check_objective(i, stage.objective)
            needed = stage.objective.context + 1 if isinstance(stage.objective, ActionConditioned) else 2
            if self.clip_frames(stage) < needed:
                raise DilaError(f"{where}stages.{i} needs clips of {needed} frames or more; raise frames")

    def _check_objective(self, i: int, objective: AnyObjective) -> None:
        try:
            if not is_dataclass(objective) or not callable(objective):
                raise TypeError("no dataclass with a __call__")
            json.dumps(to_json(objective))
        except (TypeError, ValueError, NameError) as error:
            raise DilaError(
                f"run {self.name}: stages.{i}.objective cannot be kept in run.json ({first_line(error)}); make it a "
                "dataclass with a __call__, whose fields are numbers, texts, lists and dataclasses of them"
            ) from error
        kind, published = kind_of(self.model), isinstance(objective, Published)
        if published == isinstance(self.model, DiLAConfig):
            fitting = "OneStep, Rollout or ActionConditioned" if published else "Published"
            raise DilaError(
                f"run {self.name}: stages.{i}.objective is {type(objective).__name__}, which a {kind} model does not "
                f"train by; use {fitting}"
            )

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def clip_frames(self, stage: Stage) -> int:
        """Clip length of a stage."""
        return stage.frames or self.clips.frames

    @property
    def uses_actions(self) -> bool:
        """Whether a stage reads real actions."""
        return any(isinstance(stage.objective, ActionConditioned) for stage in self.stages)


_COUNTS = ("batch", "accumulate", "log_every", "evaluate_every", "evaluate_clips", "checkpoint_every", "keep")
_AMOUNTS = ("seed", "checkpoint_minutes", "workers", "hold")
