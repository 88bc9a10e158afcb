"""Table 3: how well true actions, which training never saw, are predicted from latent actions.

Probes are fitted on training episodes and scored on held-out ones: ridge regression (the paper's linear probe) and an
MLP. Controls: the same probe with shuffled labels, raw feature differences (what can be predicted without learning),
and z of an untrained model of the same config. Learning curves show how many labels are needed.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from dila.analysis.mlp_probe import fit_mlp
from dila.analysis.probe import Fit, ProbeResult, chance, feature_changes, probe
from dila.data import Clip, Clips
from dila.errors import DilaError
from dila.evaluate.bench import Bench, sample, spread
from dila.evaluate.factors import Factor, components, known_rows
from dila.evaluate.result import Better, Result, Score, edges, score_curve
from dila.imagine.world import World
from dila.protocols import Episode, LatentActionModel
from dila.shapes import Bool, Float, Int, Tensor

CURVE = (50, 100, 200, 400, 800, 1600, 3200)
"""Training set sizes of the learning curve, up to `Settings.pairs`."""
STILL = 1e-6
"""Standard deviation up to which a number counts as constant."""
FITS: dict[str, Fit | None] = {"ridge": None, "mlp": fit_mlp}

Read = Callable[[Clip], Tensor]
"""Function from a batch of clips to probe inputs, one row per transition, clip after clip."""


class Transitions(NamedTuple):
    """Probe inputs and targets, one row per transition."""

    x: Mapping[str, Tensor]
    """Inputs by name."""
    y: Float[Tensor, "N Dy"]
    episode: Int[Tensor, " N"]

    def at(self, rows: Tensor) -> "Transitions":
        """Select rows."""
        return Transitions({name: part[rows] for name, part in self.x.items()}, self.y[rows], self.episode[rows])

    def ask(self, name: str, by: Callable[..., ProbeResult] = probe, **options: Any) -> ProbeResult:
        """Probe an input; held-out episodes are numbered as in `joined`. Options and errors are those of `by`."""
        return by(self.x[name], self.y, self.episode, held_out=self.episode < 0, **options)


def measure_probe(bench: Bench) -> Result:
    """Probe z for a column of true values.

    Raises:
        DilaError: the data have no such column or component, it does not vary, or there are too few episodes.
    """
    began = time.monotonic()
    untrained = untrained_like(bench.world.model, bench.settings.seed)
    factors = wanted_components(bench)
    train, held = gather_sides(bench, factors, inputs_of(bench.world, untrained))
    scores = _score_inputs(joined(train, held), target_names(factors, bench.settings.change), bench.settings.seed)
    scores += _curves(train, held, bench)
    notes = [] if untrained else ["the untrained control is omitted: this model cannot be built from its config alone"]
    sizes = tuple(size for size in CURVE if size <= len(train.y))
    rows = tuple(bench.held[number].id for number in sorted(set(held.episode.tolist())))
    return bench.finish("probe", began, scores, rows=rows, steps=sizes, notes=notes)


def gather_sides(
    bench: Bench, factors: Sequence[Factor], inputs: Mapping[str, Read], held: int | None = None
) -> tuple[Transitions, Transitions]:
    """Gather transitions of training and of held-out episodes.

    Args:
        bench: model, data and settings.
        factors: targets, from `wanted_components`.
        inputs: probe inputs by name.
        held: maximum number of held-out transitions; None means `Settings.pairs`, and at least 400.

    Raises:
        DilaError: as in `gather`, or no target varies in the held-out episodes.
    """
    settings = bench.settings
    sides = ((bench.train, settings.pairs), (bench.held, held or max(settings.pairs, 400)))
    train, judged = (gather(bench.world, part, factors, count, inputs, settings.change) for part, count in sides)
    _check_varies(bench, factors, judged.y)
    return train, judged


def inputs_of(world: World, untrained: LatentActionModel | None = None) -> dict[str, Read]:
    """Return readers of z, of z of an untrained model if given, and of raw feature differences."""
    control = {"untrained": partial(infer, world, untrained)} if untrained else {}
    return {
        "z": partial(infer, world, world.model),
        **control,
        "features": lambda clip: feature_changes(clip.frames.float()),
    }


def infer(world: World, model: LatentActionModel, batch: Clip) -> Float[Tensor, "N Dz"]:
    """Return z of every transition by a model, which need not be that of ``world``, on its device."""
    with world.running():
        return model.infer(batch.frames.to(world.device)).float().cpu().flatten(0, 1)


def gather(
    world: World,
    episodes: Sequence[Episode],
    factors: Sequence[Factor],
    pairs: int,
    inputs: Mapping[str, Read],
    change: bool = True,
) -> Transitions:
    """Gather up to ``pairs`` transitions with known targets, each once, spread over the episodes.

    Raises:
        DilaError: there is no such column, or no target is known.
    """
    cut = Clips(episodes, world.frames, world.stride, hop=max(1, world.frames - 1))
    _check_column(cut, factors[0].column)
    parts: list[Transitions] = []
    starts: list[Tensor] = []
    for batch in sample(cut, -(-pairs // (world.frames - 1))):
        y = targets(batch.columns, factors, change)
        x = {name: read(batch) for name, read in inputs.items()}
        parts.append(Transitions(x, y.flatten(0, 1), owners(batch, y.shape[1])))
        starts.append(batch.index[:, :-1].flatten())
    rows = _stacked(parts)
    # If the raw frames of a transition and the hop have a common divisor, windows share transitions.
    _, first = np.unique(np.stack([rows.episode, torch.cat(starts)]), axis=1, return_index=True)
    rows = rows.at(torch.from_numpy(np.sort(first)))
    rows = rows.at(known_rows(rows.y, factors))
    return rows.at(torch.tensor(spread(len(rows.y), pairs)))


def targets(columns: Mapping[str, Tensor], factors: Sequence[Factor], change: bool) -> Float[Tensor, "B K A"]:
    """Targets of each transition: its action (the mean of its raw actions), or the state before it, or its change.

    Angles of a state are given as sine and cosine, and change the shorter way round. Actions are always plain numbers.
    """
    if factors[0].column != "action":
        told = [factor.change(columns) if change else factor.of(columns)[:, :-1] for factor in factors]
        return torch.cat(told, dim=-1)
    if change:
        raise DilaError("--change does not apply to actions; give --column state --change, or omit --change")
    return columns["action"].double().mean(2)[..., [part for factor in factors for part in factor.parts]]


def target_names(factors: Sequence[Factor], change: bool) -> list[str]:
    """Names of the numbers of `targets`."""
    told = [[f"sin {f.name}", f"cos {f.name}"] if _on_circle(f, change) else [f.name] for f in factors]
    return [name for names in told for name in names]


def radians(y: Float[Tensor, "N A"], factors: Sequence[Factor], change: bool) -> dict[str, Float[Tensor, " N"]]:
    """Return the angles among `targets` in radians, by name."""
    told, place = {}, 0
    for factor in factors:
        circle = _on_circle(factor, change)
        if factor.kind == "angle":
            told[factor.name] = torch.atan2(y[:, place], y[:, place + 1]) if circle else y[:, place]
        place += 1 + circle
    return told


def wanted_components(bench: Bench) -> list[Factor]:
    """Return the components that the settings select, as in the held-out clips.

    Raises:
        DilaError: there is no such column or component, or the column contains classes.
    """
    cut, settings = Clips(bench.held, bench.world.frames, bench.world.stride), bench.settings
    _check_column(cut, settings.column)
    width = cut.column_shapes[settings.column][-1]
    if width == 1 and not cut[0].columns[settings.column].is_floating_point():
        raise DilaError(
            f"column {settings.column!r} of {bench.data} contains classes, not numbers; use dila eval disentangle"
        )
    return components(settings.column, settings.components, width, bench.names)


def varies(y: Float[Tensor, "N A"]) -> Bool[Tensor, " A"]:
    """Return which components vary over the rows."""
    return y.double().std(0, correction=0) > STILL


def _check_varies(bench: Bench, factors: Sequence[Factor], y: Float[Tensor, "N A"]) -> None:
    """Raise DilaError if no target varies in the held-out episodes."""
    if not varies(y).any():
        names = ", ".join(factor.name for factor in factors)
        told = f"the change of {names}" if bench.settings.change else names
        raise DilaError(
            f"column {bench.settings.column!r} of {bench.data}: {told} is constant in the held-out episodes; choose "
            "other --components, or hold out more episodes"
        )


def untrained_like(model: LatentActionModel, seed: int) -> LatentActionModel | None:
    """Return a freshly initialised model of the same config on the same device; None if it needs more than a config."""
    config = getattr(model, "config", None)
    if config is None or not isinstance(model, nn.Module):
        return None
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return type(model)(config).eval().to(device)  # pyright: ignore[reportCallIssue]
        except TypeError:  # the constructor needs more than a config
            return None


def owners(batch: Clip, rows: int) -> Int[Tensor, " N"]:
    """Episode number of each row, with ``rows`` rows per clip."""
    return torch.as_tensor(batch.episode).repeat_interleave(rows)


def joined(train: Transitions, held: Transitions) -> Transitions:
    """Concatenate both sides; held-out episodes get negative numbers."""
    return _stacked([train, held._replace(episode=-1 - held.episode)])


def _stacked(parts: Sequence[Transitions]) -> Transitions:
    x = {name: torch.cat([part.x[name] for part in parts]) for name in parts[0].x}
    return Transitions(x, torch.cat([part.y for part in parts]), torch.cat([part.episode for part in parts]))


def _check_column(cut: Clips, column: str) -> None:
    if column not in cut.column_shapes:
        why = cut.dropped.get(column)
        have = ", ".join(cut.column_shapes) or "none"
        raise DilaError(
            f"the data have no column {column!r} to probe for{f', because {why}' if why else ''}; they have {have}"
        )


def _on_circle(factor: Factor, change: bool) -> bool:
    """Whether a target is represented by its sine and cosine."""
    return factor.kind == "angle" and not change and factor.column != "action"


def _score_inputs(both: Transitions, names: Sequence[str], seed: int) -> list[Score]:
    scores: list[Score] = []
    for kind, fit in FITS.items():
        told = {name: both.ask(name, seed=seed, fit=fit) for name in both.x}
        told["shuffled"] = both.ask("z", chance, seed=seed, fit=fit)
        scores += [score for name, result in told.items() for score in score_probe(f"{name}/{kind}", result)]
        by_component = zip(names, told["z"].r2_by_component, strict=True)
        scores += [Score(f"r2/z/{kind}/{name}", value) for name, value in by_component]
    return scores


def score_probe(name: str, result: ProbeResult) -> list[Score]:
    """Return R² and MSE of a probe, the latter with one value per held-out episode."""
    # `joined` numbers held-out episodes -1, -2, ..., so the values are in descending order of episode.
    values = tuple(reversed(result.mse_by_episode))
    return [
        score_r2(f"r2/{name}", result),
        Score(f"mse/{name}", result.mse, *edges(result.mse_interval), "lower", values),
    ]


def score_r2(name: str, result: ProbeResult, better: Better = "higher") -> Score:
    """Return R² of a probe with its interval."""
    return Score(name, result.r2, *edges(result.r2_interval), better)


def _curves(train: Transitions, held: Transitions, bench: Bench) -> list[Score]:
    """R² and MSE of every probe by number of training transitions, which are spread over all episodes."""
    points: dict[str, list[Score]] = defaultdict(list)
    for size in (size for size in CURVE if size <= len(train.y)):
        both = joined(train.at(torch.tensor(spread(len(train.y), size))), held)
        for (kind, fit), name in product(FITS.items(), both.x):
            for score in score_probe(f"{name}/{kind}", both.ask(name, seed=bench.settings.seed, fit=fit)):
                points[score.name.replace("/", "_by_pairs/", 1)].append(score)
    return [score_curve(name, its) for name, its in points.items()]
