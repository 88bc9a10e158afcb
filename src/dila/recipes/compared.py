"""Runs of a comparison: DiLA, its ablations and the baselines by name, and their shared settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dila.baselines.presets import BASELINES
from dila.configs import to_json
from dila.errors import DilaError, at_least
from dila.recipes import ABLATION, ABLATIONS, BASELINE, recipe
from dila.recipes.results import slug
from dila.train.run import Run
from dila.vision import encoder_config

DILA = "dila"
FOLLOWS = {"adaworld_diffusion": f"{BASELINE}:adaworld"}
"""Models that are trained over the finished run, of the same seed, of another; at `tiny` only."""

_BASELINES = tuple(f"{BASELINE}:{name}" for name in BASELINES)


def _ablations(*names: str) -> tuple[str, ...]:
    return tuple(f"{ABLATION}:{name}" for name in names)


GROUPS = {
    "table1": (DILA, *_BASELINES, *_ablations("no-content")),
    "table2": (DILA, *_ablations("no-content", "discrete", "gaussian")),
    "widths": (DILA, *_ablations(*(name for name in ABLATIONS if name.startswith("z-")), "no-bottleneck")),
    "losses": (DILA, *_ablations(*(name for name in ABLATIONS if name.endswith("-loss")))),
    "idm": (DILA, *_ablations("pairwise", "bidirectional")),
    "figure5": (DILA, *_ablations("no-action")),
    "all": (DILA, *_BASELINES, *_ablations(*ABLATIONS)),
}
"""Groups of models: tables 1 and 2 and figure 5 of the paper; widths of z, up to no bottleneck; each loss disabled; the
IDM that sees two frames against the bidirectional one; all. Ablations that do not change the recipe of the chosen size
are left out, because they equal DiLA."""

NAMES = ("table1", "table2")
TABLES = tuple(dict.fromkeys(GROUPS["table1"] + GROUPS["table2"]))
FAMILIES = {
    "": TABLES,
    "How wide z is, up to no bottleneck": GROUPS["widths"],
    "Each loss off": GROUPS["losses"],
    "The IDM of two frames or of the whole clip": GROUPS["idm"],
}
"""Families of models: each has its own tables, and its tests are adjusted together for multiple comparisons."""
OTHERS = "Without IDM and FDM, and other changes"
"""Title of the family of all other models, including your own."""

_CHOICE = f"choose dila, baseline:NAME, ablation:NAME, {', '.join(FOLLOWS)} or one of {', '.join(GROUPS)}"

AGENT = ("agent_x", "agent_y")

_BASE = {"tiny": "tiny_pusht", "small": "small"}


@dataclass(frozen=True)
class Settings:
    """Settings shared by all runs of a comparison.

    Args:
        data: the corpus.
        out: folder of runs and results.
        names: ``dila``, ``baseline:NAME``, ``ablation:NAME``, ``adaworld_diffusion`` (adds ``baseline:adaworld``, whose
            runs it starts from), or a group: table1, table2, widths, losses, idm, figure5, all.
        seeds: number of seeds per model, from 0.
        size: size of the models, which also selects the recipe.
        steps: optimiser steps per run, with stages shortened in proportion; None uses the recipe's.
        batch: clips per optimiser step; None uses the recipe's.
        frames: frames per clip; None uses the recipe's.
        stride: seconds between frames; None uses the recipe's.
        fps: frames per second; overrides the rate stated in the files.
        camera: read only this camera of multi-camera recordings.
        encoder: the frozen encoder, see `dila.vision.build_encoder`; if empty, the recipe's.
        parallel: number of runs at once, on the same device.
        cache_dir: folder of encoded features, see `dila.train.loop.train`.
        device: auto, cpu, cuda or mps.
        graph: record training steps as CUDA graphs, like the field of a run.
        commit: commit of the source, to record where git is not available.
        probed: components of the column ``state`` whose change the probe predicts from z. By default the agent's
            position; data without it get no probe.
    """

    data: str
    out: Path = Path("runs/compare")
    names: tuple[str, ...] = NAMES
    seeds: int = 5
    size: Literal["tiny", "small"] = "tiny"
    steps: int | None = None
    batch: int | None = None
    frames: int | None = None
    stride: float | None = None
    fps: float | None = None
    camera: str | None = None
    encoder: dict[str, Any] = field(default_factory=dict)
    parallel: int = 1
    cache_dir: Path | None = None
    device: str = "auto"
    graph: bool = False
    commit: str | None = None
    probed: tuple[str, ...] = AGENT

    def __post_init__(self):
        at_least(1, seeds=self.seeds, parallel=self.parallel)


def families(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group models into families, by title; every model of `names` is in a family."""
    asked = {name for family in FAMILIES.values() for name in family}
    return {**FAMILIES, OTHERS: (DILA, *(name for name in names if name not in asked))}


def spelled_out(settings: Settings) -> tuple[str, ...]:
    """Expand groups to the names of their members, without duplicates.

    Raises:
        DilaError: there are no names, a name is unknown, or an explicitly named ablation does not change the recipe.
    """
    names: list[str] = []
    if not settings.names:
        raise DilaError(f"--names is empty; {_CHOICE}")
    for name in settings.names:
        if name in GROUPS:
            names += [member for member in GROUPS[name] if _is_its_own(settings, member)]
        else:
            run_of(settings, name, 0)
            names += [*([FOLLOWS[name]] if name in FOLLOWS else []), name]
    return tuple(dict.fromkeys(names))


def _is_its_own(settings: Settings, name: str) -> bool:
    """Whether a model differs from DiLA: some ablations do not change the recipe of this size."""
    kind, _, change = name.partition(":")
    run = recipe(_BASE[settings.size])
    return kind != ABLATION or ABLATIONS[change](run) != run


def run_of(settings: Settings, name: str, seed: int) -> Run:
    """Make the run with this name and seed, with the settings of the comparison.

    It has no decoder and no guard: a run whose latents collapse is also a result.
    """
    base = _BASE[settings.size]
    named = {DILA: base, BASELINE: f"{name}@{settings.size}", ABLATION: f"{name}@{base}"}
    named |= {follower: follower for follower in FOLLOWS if settings.size == "tiny"}
    kind = name.partition(":")[0]
    if kind not in named:
        raise DilaError(f"names: there is no {name!r}; {_CHOICE}")
    run = recipe(named[kind])
    cut = {key: getattr(settings, key) for key in ("frames", "stride", "fps", "camera")}
    run = run if settings.steps is None else shortened(run, settings.steps)
    return replace(
        run,
        name=name,
        seed=seed,
        batch=run.batch if settings.batch is None else settings.batch,
        clips=replace(run.clips, **{key: value for key, value in cut.items() if value is not None}),
        encoder=settings.encoder or run.encoder,
        start=str(settings.out / slug(FOLLOWS[name], seed)) if name in FOLLOWS else run.start,
        decoder=None,
        guard=None,
        trackers=(),
        keep=1,
        graph=settings.graph,
        evaluate_every=run.steps,
        log_every=20,
    )


def encoder_of(size: str) -> dict[str, Any]:
    """Default encoder of models of a size."""
    return recipe(_BASE.get(size, _BASE["tiny"])).encoder


def seen_by(run: Run) -> dict[str, Any]:
    """Clip settings and encoder of a run, for its JSON."""
    clips = {key: getattr(run.clips, key) for key in ("frames", "stride", "fps", "camera")}
    fields = to_json(encoder_config(run.encoder))
    return clips | {"encoder": " ".join([run.encoder["name"], *(f"{name}={value}" for name, value in fields.items())])}


def shortened(run: Run, steps: int) -> Run:
    """Scale the stages of a run to `steps` in total; warm-up is at most a tenth of that.

    Raises:
        DilaError: there are fewer steps than stages.
    """
    if steps < len(run.stages):
        raise DilaError(f"steps = {steps} must be at least {len(run.stages)}, one for each stage of {run.name}")
    ends = [round(steps * sum(s.steps for s in run.stages[: i + 1]) / run.steps) for i in range(len(run.stages))]
    ends = [max(end, i + 1) for i, end in enumerate(ends)]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    stages = tuple(replace(stage, steps=max(1, count)) for stage, count in zip(run.stages, lengths, strict=True))
    first = replace(stages[0], steps=steps - sum(stage.steps for stage in stages[1:]))
    warmup = min(run.optimiser.warmup, steps // 10)
    return replace(run, stages=(first, *stages[1:]), optimiser=replace(run.optimiser, warmup=warmup))
