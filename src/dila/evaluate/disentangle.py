"""Figure 5: what structure, content, content memory and latent action encode, by probes for every known factor.

Positions, sizes, angles, shapes, textures and colours are predicted from s, c, c_mem and the raw features e of one
frame, and from z, which should not encode them. Their changes are predicted from z and from the differences of the
others over one transition. Numbers are scored by R², classes by accuracy rescaled from chance (0) to no error (1), all
on held-out episodes.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from dila.analysis.classify import classify
from dila.analysis.probe import probe
from dila.data import Clip, Clips
from dila.errors import DilaError
from dila.evaluate.bench import Bench, sample, stacked
from dila.evaluate.factors import Factor, is_known
from dila.evaluate.plots import Point, draw_bars
from dila.evaluate.probing import owners, score_r2
from dila.evaluate.result import Result, Score, edges
from dila.model.dila import DiLA
from dila.protocols import Episode
from dila.shapes import Features, Int, Tensor

PARTS = ("s", "c", "c_mem")
FLOOR = -0.2
"""Lowest R² shown in plots; how far below it a failed probe lies carries no information."""


class Side(NamedTuple):
    """Inputs and targets of the probes, of training or of held-out clips."""

    parts: dict[str, Tensor]
    """One row per frame of `_moments`: parts of the frame, their change to the next frame (d...), and z between."""
    columns: dict[str, Tensor]
    """True values of all frames of the clips, ``B T A``."""
    episode: Int[Tensor, " N"]
    notes: list[str]


def measure_disentangle(bench: Bench) -> Result:
    """Probe every part of a DiLA for every known factor.

    Raises:
        DilaError: the model is not a DiLA, or no known factor of the data varies.
    """
    began = time.monotonic()
    model = dila_of(bench, "disentangle")
    train, held = sides = [_gather(bench, model, part) for part in (bench.train, bench.held)]
    episode, moments = torch.cat([train.episode, -1 - held.episode]), _moments(bench)
    notes = list(train.notes)
    for where, side in zip(("training", "held-out"), sides, strict=True):
        notes += [f"{where} episodes: {told}" for told in bench.unknown(side.columns)]
    scores: list[Score] = []

    def ask(title: str, factor: Factor, names: Iterable[str], ys: Sequence[Tensor]) -> None:
        """Score a factor from each part; omit one that cannot be scored on these episodes."""
        y = torch.cat([y[:, moments].flatten(0, 1) for y in ys])
        known = is_known(y)
        for name in names:
            x = torch.cat([side.parts[name] for side in sides])[known]
            with suppress(DilaError):  # constant in the held-out episodes, or fewer than two classes in training
                scores.append(_probe(f"{title}/{name}", factor, x, y[known], episode[known], bench.settings.seed))

    for factor in bench.factors(train.columns):
        still = [name for name in train.parts if not name.startswith("d")]
        ask(factor.name, factor, still, [factor.of(side.columns) for side in sides])
        if factor.kind != "class" and "colour" not in factor.name:
            moved = [name for name in train.parts if name.startswith("d") or name == "z"]
            ask(f"change of {factor.name}", factor, moved, [factor.change(side.columns) for side in sides])
    if not scores:
        raise DilaError("disentangle needs a known factor that varies, but these data have none; record true states")
    return bench.finish("disentangle", began, scores, rows=(), notes=notes, pictures=_draw(bench, scores))


def dila_of(bench: Bench, what: str) -> DiLA:
    """Return the model if it is a DiLA, with structure and content; raise DilaError otherwise."""
    if not isinstance(bench.world.model, DiLA):
        kind = type(bench.world.model).__name__
        raise DilaError(f"{what} needs a model with structure and content (DiLA), but this is {kind}")
    return bench.world.model


def parts_of(model: DiLA, e: Features) -> dict[str, Tensor]:
    """Return those of s, c and c_mem that the model has, ``B T ...``."""
    seen: Any = model.observe(e)
    parts = {name: getattr(seen, name, None) for name in PARTS}
    return {name: part.float() for name, part in parts.items() if isinstance(part, Tensor) and part.numel()}


def _moments(bench: Bench) -> list[int]:
    """Frames of a clip that are probed, each with its change to the next."""
    return sorted({(bench.world.frames - 1) // 2, bench.world.frames - 2})


def _gather(bench: Bench, model: DiLA, episodes: Sequence[Episode]) -> Side:
    world, moments = bench.world, _moments(bench)
    cut = Clips(episodes, world.frames, world.stride, hop=max(1, world.frames // 2))
    parts: list[dict[str, Tensor]] = []
    columns: list[dict[str, Tensor]] = []
    owner: list[Tensor] = []
    notes: list[str] = []
    for batch in sample(cut, -(-bench.settings.pairs // 2)):
        e, told = batch.frames.to(bench.device), {}
        with world.running():
            seen = parts_of(model, e) | {"e": e.float()}
            try:
                told["z"] = world.model.infer(e)[:, moments].float()
            except DilaError as error:
                notes = [f"z is omitted: {error}"]
        for name, part in seen.items():
            told[name] = part[:, moments]
            told[f"d{name}"] = part[:, [t + 1 for t in moments]] - part[:, moments]
        parts.append({name: part.flatten(0, 1).flatten(1).cpu() for name, part in told.items()})
        columns.append(known_columns(batch))
        owner.append(owners(batch, len(moments)))
    return Side(stacked(parts), stacked(columns), torch.cat(owner), notes)


def known_columns(clips: Clip) -> dict[str, Tensor]:
    """Columns of true values, without the action."""
    return {name: values for name, values in clips.columns.items() if name != "action"}


def _probe(name: str, factor: Factor, x: Tensor, y: Tensor, episode: Tensor, seed: int) -> Score:
    if factor.kind == "class":
        told = classify(x, y, episode, episode < 0, seed)
        return Score(f"accuracy/{name}", told.above_chance, *edges(told.interval), "neither")
    return score_r2(f"r2/{name}", probe(x, y, episode, held_out=episode < 0, seed=seed), "neither")


def _draw(bench: Bench, scores: Sequence[Score]) -> dict[str, str]:
    groups: dict[str, dict[str, dict[str, Point]]] = {"frames": {}, "changes": {}}
    for score in scores:
        _, factor, part = score.name.split("/")
        kind = "changes" if factor.startswith("change of ") else "frames"
        bars = groups[kind].setdefault(factor.removeprefix("change of "), {})
        bars[part] = Point(score.value, score.low, score.high)
    titles = {
        "frames": "Probes for factors of a frame (from z: of the next transition)",
        "changes": "Probes for changes of factors over a transition",
    }
    written = {}
    for kind, bars in groups.items():
        if bars:
            path = draw_bars(bench.out / f"disentangle_{kind}.png", bars, "held-out R² (classes: 0 chance, 1 perfect)",
                             titles[kind], floor=FLOOR)  # fmt: skip
            written[path.name] = f"{titles[kind]}; bars are cut off at {FLOOR}."
    return written
