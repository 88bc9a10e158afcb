"""Table 3: how well true actions, which training never saw, are read off the latent ones.

Probes are fitted on training episodes and scored on held-out ones: ridge regression (the paper's linear probe) and a
small network. Beside z stand its controls: the same probe with shuffled labels, raw feature differences (what is there
before any learning), and z of an untrained model of the same config. A learning curve says how many labels are needed.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from dila.analysis.mlp_probe import fit_mlp
from dila.analysis.probe import Fit, ProbeResult, chance, feature_changes, probe
from dila.data import Clips, collate_clips
from dila.errors import DilaError
from dila.evaluate.bench import PART, Bench
from dila.evaluate.factors import places
from dila.evaluate.result import Result, Score
from dila.protocols import Episode, LatentActionModel
from dila.shapes import Float, Int, Tensor

CURVE = (50, 100, 200, 400, 800, 1600, 3200)
"""Sizes of the learning curve, as far as `Settings.pairs` goes."""
FITS: dict[str, Fit | None] = {"ridge": None, "mlp": fit_mlp}


class Transitions(NamedTuple):
    """One row a transition."""

    z: Float[Tensor, "N Dz"]
    untrained: Float[Tensor, "N Dz"]
    features: Float[Tensor, "N HWD"]
    y: Float[Tensor, "N Dy"]
    episode: Int[Tensor, " N"]


def measure_probe(bench: Bench) -> Result:
    """Probe z for a column of true values.

    Raises:
        DilaError: the data have no such column or component, or too few episodes.
    """
    began = time.monotonic()
    wanted = bench.settings.pairs
    untrained = untrained_like(bench.world.model, bench.settings.seed)
    train = gather(bench, bench.train, wanted, untrained)
    held = gather(bench, bench.held, max(wanted, 400), untrained)
    scores: list[Score] = []
    inputs = ("z", "untrained", "features") if untrained else ("z", "features")
    for kind, fit in FITS.items():
        scores += _score_inputs(train, held, inputs, kind, fit, bench)
    scores += _curves(train, held, inputs, bench)
    notes = [] if untrained else ["no untrained control: this model cannot be made anew from its config"]
    sizes = tuple(size for size in CURVE if size <= len(train.y))
    rows = tuple(bench.held[number].id for number in sorted(set(held.episode.tolist())))
    return bench.finish("probe", began, scores, rows=rows, steps=sizes, notes=notes)


def gather(
    bench: Bench, episodes: Sequence[Episode], pairs: int, untrained: LatentActionModel | None = None
) -> Transitions:
    """About so many transitions, spread over the episodes."""
    world, settings = bench.world, bench.settings
    cut = Clips(episodes, world.frames, world.stride, hop=max(1, world.frames // 2))
    columns = components(cut, settings.column, settings.components, bench.names)
    clips = -(-pairs // (world.frames - 1))
    chosen = spread(len(cut), clips)
    parts: list[Transitions] = []
    for start in range(0, len(chosen), PART):
        batch = collate_clips([cut[i] for i in chosen[start : start + PART]])
        e = batch.frames.to(bench.device)
        with world.running():
            z = world.model.infer(e).float().cpu()
            blank = untrained.infer(e).float().cpu() if untrained else torch.zeros_like(z)
        y = targets(batch.columns[settings.column], settings.column, settings.change)[..., columns]
        episode = torch.as_tensor(batch.episode)[:, None].expand(-1, z.shape[1])
        parts.append(
            Transitions(z.flatten(0, 1), blank.flatten(0, 1), feature_changes(batch.frames.float()), y.flatten(0, 1),
                        episode.flatten())
        )  # fmt: skip
    rows = Transitions(*(torch.cat(column) for column in zip(*parts, strict=True)))
    known = rows.y.isfinite().all(1)
    rows = Transitions(*(part[known] for part in rows))
    keep = torch.tensor(spread(len(rows.y), pairs))
    return Transitions(*(part[keep] for part in rows))


def targets(column: Tensor, name: str, change: bool) -> Float[Tensor, "B K A"]:
    """What is to be read off a transition: its action (the mean of the raw ones in it), or a state or its change."""
    column = column.double()
    if name == "action" and change:
        raise DilaError("the change of an action says nothing of a transition; probe for --column state --change")
    if name == "action":
        return column.mean(2)
    return column[:, 1:] - column[:, :-1] if change else column[:, :-1]


def components(cut: Clips, column: str, wanted: Sequence[str], names: dict[str, tuple[str, ...]]) -> list[int]:
    """Places of the wanted components.

    Raises:
        DilaError: no such column or component.
    """
    if column not in cut.column_shapes:
        why = cut.dropped.get(column)
        have = ", ".join(cut.column_shapes) or "none"
        raise DilaError(
            f"the data have no column {column!r} to probe for{f', because {why}' if why else ''}; they have {have}"
        )
    width = cut.column_shapes[column][-1]
    return places(column, wanted, width, names) or list(range(width))


def untrained_like(model: LatentActionModel, seed: int) -> LatentActionModel | None:
    """A model of the same config with weights as at the start of training, on the same device; None if none can be."""
    config = getattr(model, "config", None)
    if config is None or not isinstance(model, nn.Module):
        return None
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return type(model)(config).eval().to(device)  # pyright: ignore[reportCallIssue]
        except TypeError:  # it is made of more than its config
            return None


def spread(length: int, count: int) -> list[int]:
    """Places evenly spread over a length."""
    count = min(length, count)
    return ((torch.arange(count) + 0.5) * length / max(count, 1)).long().tolist()


def joined(train: Transitions, held: Transitions) -> tuple[Transitions, Tensor]:
    """Rows of both sides, and which are held out; their episodes are told apart."""
    both = Transitions(*(torch.cat(pair) for pair in zip(train, held._replace(episode=-1 - held.episode), strict=True)))
    return both, both.episode < 0


def _score_inputs(
    train: Transitions, held: Transitions, inputs: Sequence[str], kind: str, fit: Fit | None, bench: Bench
) -> list[Score]:
    both, test = joined(train, held)
    run = partial(probe, y=both.y, episode=both.episode, held_out=test, seed=bench.settings.seed, fit=fit)
    told = {name: run(getattr(both, name)) for name in inputs}
    told["shuffled"] = chance(both.z, both.y, both.episode, held_out=test, seed=bench.settings.seed, fit=fit)
    scores = [score for name, result in told.items() for score in score_probe(f"{name}/{kind}", result)]
    names = bench.component_names(both.y.shape[1])
    by_component = zip(names, told["z"].r2_by_component, strict=True)
    return scores + [Score(f"r2/z/{kind}/{name}", value) for name, value in by_component]


def score_probe(name: str, result: ProbeResult) -> list[Score]:
    """R² and MSE of a probe, the latter with its values of each held-out episode."""
    r2, mse = result.r2_interval, result.mse_interval
    # Held-out episodes are numbered backwards by `joined`, so that theirs come out in falling order.
    values = tuple(reversed(result.mse_by_episode))
    return [
        Score(f"r2/{name}", result.r2, r2.low, r2.high, "higher"),
        Score(f"mse/{name}", result.mse, mse.low, mse.high, "lower", values),
    ]


def _curves(train: Transitions, held: Transitions, inputs: Sequence[str], bench: Bench) -> list[Score]:
    """R² of the ridge probe by the number of pairs that it is fitted to; those are spread over all episodes."""
    sizes = [size for size in CURVE if size <= len(train.y)]
    curves = []
    for name in inputs:
        told = []
        for size in sizes:
            part = Transitions(*(column[torch.tensor(spread(len(train.y), size))] for column in train))
            both, test = joined(part, held)
            told.append(probe(getattr(both, name), both.y, both.episode, held_out=test, seed=bench.settings.seed).r2)
        curves.append(Score(f"r2_by_pairs/{name}", told[-1] if told else None, by_step=tuple(told)))
    return curves
