"""Figure 5: what structure, content, its memory and the latent action hold, by probes for every known factor.

Of one frame, s, c, c_mem and the raw features e are asked for positions, sizes, angles, shapes, textures and colours;
of one transition, z and the differences of the others are asked for their changes, z also for what it should not hold.
Numbers give R², classes the accuracy from chance (0) to no error (1), all on held-out episodes.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from dila.analysis.classify import classify
from dila.analysis.probe import probe
from dila.data import Clips, collate_clips
from dila.errors import DilaError
from dila.evaluate.bench import PART, Bench
from dila.evaluate.factors import Factor, is_known
from dila.evaluate.plots import Point, draw_bars
from dila.evaluate.probing import score_r2, spread
from dila.evaluate.result import Result, Score, edges
from dila.model.dila import DiLA
from dila.protocols import Episode
from dila.shapes import Features, Tensor

PARTS = ("s", "c", "c_mem")


def measure_disentangle(bench: Bench) -> Result:
    """Probe every part of a DiLA for every known factor.

    Raises:
        DilaError: the model has no structure and content, or the data no columns.
    """
    began = time.monotonic()
    model = dila_of(bench, "disentangle")
    train, held = (_gather(bench, model, part) for part in (bench.train, bench.held))
    scores, notes = [], [*train["notes"], *(f"{where} {told}" for where, told in _unknown(bench, train, held))]
    for factor in train["factors"]:
        still = {name: x for name, x in train["parts"].items() if not name.startswith("d")}
        scores += _probe_all(factor.name, factor, still, train, held, "values", bench)
        if factor.kind != "class" and "colour" not in factor.name:
            moved = {name: x for name, x in train["parts"].items() if name.startswith("d") or name == "z"}
            scores += _probe_all(f"change of {factor.name}", factor, moved, train, held, "changes", bench)
    if not scores:
        raise DilaError("no known factor varies in these data; record them with their true states")
    pictures = _draw(bench, scores)
    return bench.finish("disentangle", began, scores, rows=(), notes=notes, pictures=pictures)


def _unknown(bench: Bench, train: dict[str, Any], held: dict[str, Any]) -> list[tuple[str, str]]:
    sides = (("of the training episodes", train), ("of the held-out episodes", held))
    return [(where, told) for where, side in sides for told in bench.unknown(side["columns"])]


def dila_of(bench: Bench, what: str) -> DiLA:
    """The model, if it is one with structure and content. Raises DilaError where it is not."""
    if not isinstance(bench.world.model, DiLA):
        kind = type(bench.world.model).__name__
        raise DilaError(f"{what} needs a model with structure and content, a DiLA, not {kind}")
    return bench.world.model


def parts_of(model: DiLA, e: Features) -> dict[str, Tensor]:
    """s, c, c_mem where the model has them, and z where it can infer it: ``B T ...``, z ``B K Dz``."""
    seen: Any = model.observe(e)
    parts = {name: getattr(seen, name, None) for name in PARTS}
    return {name: part.float() for name, part in parts.items() if isinstance(part, Tensor) and part.numel()}


def _gather(bench: Bench, model: DiLA, episodes: Sequence[Episode]) -> dict[str, Any]:
    """Two transitions of each of some clips: parts of the first frame, changes to the next, z between, and factors."""
    world = bench.world
    cut = Clips(episodes, world.frames, world.stride, hop=max(1, world.frames // 2))
    chosen = spread(len(cut), -(-bench.settings.pairs // 2))
    moments = sorted({(world.frames - 1) // 2, world.frames - 2})
    told: dict[str, list[Tensor]] = defaultdict(list)
    columns: dict[str, list[Tensor]] = defaultdict(list)
    owner: list[Tensor] = []
    notes: list[str] = []
    for start in range(0, len(chosen), PART):
        batch = collate_clips([cut[i] for i in chosen[start : start + PART]])
        e = batch.frames.to(bench.device)
        with world.running():
            parts = parts_of(model, e) | {"e": e.float()}
            try:
                z = world.model.infer(e)[:, moments].float().flatten(0, 1).cpu()
                told["z"].append(z)
            except DilaError as error:
                notes = [f"z is left out: {error}"]
        for name, part in parts.items():
            told[name].append(part[:, moments].flatten(0, 1).flatten(1).cpu())
            change = part[:, [t + 1 for t in moments]] - part[:, moments]
            told[f"d{name}"].append(change.flatten(0, 1).flatten(1).cpu())
        owner.append(torch.as_tensor(batch.episode)[:, None].expand(-1, len(moments)).flatten())
        for name, values in batch.columns.items():
            if name != "action":
                columns[name].append(values)
    every = {name: torch.cat(values) for name, values in columns.items()}
    return {
        "parts": {name: torch.cat(parts) for name, parts in told.items()},
        "columns": every,
        "moments": moments,
        "factors": bench.factors(every),
        "episode": torch.cat(owner),
        "notes": notes,
    }


def _probe_all(
    title: str,
    factor: Factor,
    parts: dict[str, Tensor],
    train: dict[str, Any],
    held: dict[str, Any],
    what: str,
    bench: Bench,
) -> list[Score]:
    """Scores of one factor from each part; one that cannot be scored on these episodes is left out."""
    episode = torch.cat([train["episode"], -1 - held["episode"]])
    y = torch.cat([_at(factor, side, what) for side in (train, held)])
    known = is_known(y)
    scores = []
    for name in parts:
        x = torch.cat([train["parts"][name], held["parts"][name]])[known]
        try:
            scores.append(_probe_one(f"{title}/{name}", factor, x, y[known], episode[known], bench.settings.seed))
        except DilaError:
            continue  # it does not vary among the held-out episodes, or no class of theirs was trained on
    return scores


def _at(factor: Factor, side: dict[str, Any], what: str) -> Tensor:
    values = factor.of(side["columns"]) if what == "values" else factor.change(side["columns"])
    return values[:, side["moments"]].flatten(0, 1)


def _probe_one(name: str, factor: Factor, x: Tensor, y: Tensor, episode: Tensor, seed: int) -> Score:
    if factor.kind == "class":
        told = classify(x, y, episode, episode < 0, seed)
        room = max(1 - told.chance, 1e-9)
        low, high = (None if edge is None else (edge - told.chance) / room for edge in edges(told.interval))
        return Score(f"accuracy/{name}", told.above_chance, low, high, "neither")
    return score_r2(f"r2/{name}", probe(x, y, episode, held_out=episode < 0, seed=seed), "neither")


def _draw(bench: Bench, scores: Sequence[Score]) -> dict[str, str]:
    groups: dict[str, dict[str, dict[str, Point]]] = {"frames": {}, "changes": {}}
    for score in scores:
        _, factor, part = score.name.split("/")
        kind = "changes" if factor.startswith("change of ") else "frames"
        bars = groups[kind].setdefault(factor.removeprefix("change of "), {})
        bars[part] = Point(_floored(score.value), _floored(score.low), _floored(score.high))
    titles = {
        "frames": "What a frame's parts hold (and z, of the transition after it)",
        "changes": "What a transition's parts hold of the change",
    }
    written = {}
    for kind, bars in groups.items():
        if bars:
            path = draw_bars(bench.out / f"disentangle_{kind}.png", bars, "held-out R² (classes: 0 chance, 1 perfect)",
                             titles[kind])  # fmt: skip
            written[path.name] = f"{titles[kind]}; below -0.2 is drawn as -0.2."
    return written


def _floored(value: float | None) -> float | None:
    """A probe that goes astray on held-out episodes says no more at -5 than at -0.2."""
    return None if value is None else max(value, -0.2)
