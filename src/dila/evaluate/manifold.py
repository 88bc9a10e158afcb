"""Figure 6: the geometry of the latent actions, on data with known transforms.

Two projections, PCA and (if umap-learn is installed) UMAP, are coloured by kind of transform and by each true
parameter; arrows on PCA show how z moves as a parameter grows. Metrics: R² of a ridge probe from z to the true
parameters (fitted on all kinds; and, for compositions, fitted on single transforms only), trustworthiness (whether
neighbours in z are neighbours in truth), and angular correlations of decoded directions and rotations with the true
ones.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch

from dila.analysis.manifold import Plane, angular_correlation, pca, trustworthiness, umap
from dila.analysis.probe import predict
from dila.data import KINDS, Clip
from dila.errors import MissingExtra
from dila.evaluate.bench import Bench
from dila.evaluate.factors import Factor
from dila.evaluate.plots import Arrow, draw_points
from dila.evaluate.probing import (
    Transitions,
    gather_sides,
    infer,
    joined,
    radians,
    score_r2,
    target_names,
    varies,
    wanted_components,
)
from dila.evaluate.result import Result, Score
from dila.shapes import Int, Tensor

SHOWN = 2000
"""Maximum number of latent actions of held-out episodes in a plot."""
UNTOLD = 0.1
"""Correlation below which a parameter gets no arrow."""
_POINTS = "Latent actions of held-out episodes"


def measure_manifold(bench: Bench) -> Result:
    """Plot and measure z of held-out episodes against a column of true values (``action`` by default).

    Raises:
        DilaError: the data have no such column, or it does not vary.
    """
    began = time.monotonic()
    factors = wanted_components(bench)
    inputs = {"z": partial(infer, bench.world, bench.world.model), "kind": _kinds}
    train, held = gather_sides(bench, factors, inputs, SHOWN)
    names = target_names(factors, bench.settings.change)
    scores = _decoding(train, held, factors, bench)
    z = held.x["z"]
    plane, constant = pca(z), not bool(varies(z).any())
    scores += [Score("pca_share", sum(plane.share), better="neither")]
    scores += _topology(held, plane.points, "pca")
    pictures = {} if constant else _draw_plane(bench, held, names, plane, "pca")
    still = [name for name, moves in zip(names, varies(held.y).tolist(), strict=True) if not moves]
    notes = [f"true parameters omitted, because constant in the held-out episodes: {', '.join(still)}"] if still else []
    if constant:
        notes.append("plots of z are omitted: z is constant in the held-out episodes")
    else:
        try:
            points = umap(z, bench.settings.seed)
            scores += _topology(held, points, "umap")
            pictures |= _draw_plane(bench, held, names, plane._replace(points=points), "umap")
        except MissingExtra as error:
            notes.append(f"UMAP is omitted: {error}")
    return bench.finish("manifold", began, scores, rows=(), notes=notes, pictures=pictures)


def _kinds(batch: Clip) -> Int[Tensor, " N"]:
    """Kind of transform of each transition; all 0 if the data have no such column."""
    return batch.columns.get("kind", torch.zeros(*batch.index.shape, 1))[:, :-1, 0].long().flatten()


def _decoding(train: Transitions, held: Transitions, factors: Sequence[Factor], bench: Bench) -> list[Score]:
    seed, change = bench.settings.seed, bench.settings.change
    names = target_names(factors, change)
    told = joined(train, held).ask("z", seed=seed)
    scores = [score_r2("r2/all", told)]
    scores += [Score(f"r2/{name}", value) for name, value in zip(names, told.r2_by_component, strict=True)]
    decoded = predict(train.x["z"], train.y, train.episode, held.x["z"], seed)
    angles = (radians(y, factors, change) for y in (decoded, held.y))
    scores += [*_turns(*angles), *_direction(decoded, held.y, names)]
    return scores + _composed(train, held, seed)


def _turns(decoded: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> list[Score]:
    return [
        Score(f"angular_correlation/{name}", angular_correlation(decoded[name], turn))
        for name, turn in true.items()
        if bool((turn.abs() > 1e-9).any())
    ]


def _direction(decoded: Tensor, true: Tensor, names: Sequence[str]) -> list[Score]:
    """Score directions of movement, if the first two parameters are a movement in the plane."""
    if len(names) < 2 or not (names[0].endswith("x") and names[1].endswith("y")):
        return []
    moves = true[:, :2].norm(dim=1) > 0.25 * true[:, :2].norm(dim=1).amax().clamp_min(1e-12)
    told, real = (torch.atan2(side[moves, 1], side[moves, 0]) for side in (decoded, true))
    return [Score("angular_correlation/direction", angular_correlation(told, real))]


def _composed(train: Transitions, held: Transitions, seed: int) -> list[Score]:
    """Score compositions with a probe that was fitted on single transforms only."""
    composed = torch.tensor(["+" in kind for kind in KINDS])
    single, held = train.at(~composed[train.x["kind"]]), held.at(composed[held.x["kind"]])
    if not len(held.y) or len(single.episode.unique()) < 4:
        return []
    decoded = predict(single.x["z"], single.y, single.episode, held.x["z"], seed)
    true = held.y.double()
    total = (true - true.mean(0)).square().sum(0)
    varies = total > 1e-9
    r2 = 1 - (decoded - true).square().sum(0)[varies] / total[varies]
    return [Score("r2/compositions_by_single_transforms", float(r2.mean()))]


def _topology(held: Transitions, points: Tensor, plane: str) -> list[Score]:
    truth = held.y[:, varies(held.y)].double()
    truth = (truth - truth.mean(0)) / truth.std(0, correction=0)
    scores = [Score(f"trustworthiness/{plane}_of_z", trustworthiness(held.x["z"], points))]
    if plane == "pca":
        scores.append(Score("trustworthiness/z_of_truth", trustworthiness(truth, held.x["z"])))
    return [*scores, Score(f"trustworthiness/{plane}_of_truth", trustworthiness(truth, points))]


def _draw_plane(bench: Bench, held: Transitions, names: Sequence[str], plane: Plane, kind: str) -> dict[str, str]:
    points, kinds = plane.points.numpy(), held.x["kind"]
    many = len(kinds.unique()) > 1
    labels, arrows = ("UMAP 1", "UMAP 2"), []
    if kind == "pca":
        first, second = (f"PC {i + 1} of z ({100 * share:.0f}% of its variance)" for i, share in enumerate(plane.share))
        labels, arrows = (first, second), _arrows(held, names, plane)
    written: dict[str, str] = {}
    told = "; arrows: the direction of z as a parameter grows, if they are correlated" if kind == "pca" else ""
    what = "change of " if bench.settings.change else ""
    if many:
        by_kind = {KINDS[int(k)]: points[(kinds == k).numpy()] for k in kinds.unique()}
        path = bench.out / f"manifold_{kind}.png"
        draw_points(path, by_kind, labels, "z by kind of transform", arrows=arrows)
        written[path.name] = f"{_POINTS} by kind of transform{told}."
    for i, name in enumerate(names):
        value = held.y[:, i].numpy()
        if np.ptp(value) < 1e-9:
            continue
        moving = np.abs(value) > 1e-9 if many else np.ones(len(value), dtype=bool)
        path = bench.out / f"manifold_{kind}_{name.replace('/', '_')}.png"
        draw_points(
            path, {"z": points[moving]}, labels, f"z coloured by the true {what}{name}",
            arrows=[arrow for arrow in arrows if arrow.name == name], colours=(value[moving], f"{what}{name}"),
        )  # fmt: skip
        written[path.name] = f"{_POINTS} on a plane ({kind.upper()}), coloured by the true {what}{name}{told}."
    return written


def _arrows(held: Transitions, names: Sequence[str], plane: Plane) -> list[Arrow]:
    """Directions in which z moves as a parameter grows: the regression of z on it, projected to the plane.

    The length is proportional to the correlation between the parameter and the position along the arrow; parameters
    that z does not encode get no arrow.
    """
    y = held.y.double() - held.y.double().mean(0)
    z = held.x["z"].double() - held.x["z"].double().mean(0)
    arrows = []
    for i, name in enumerate(names):
        if float(y[:, i].square().sum()) < 1e-12:
            continue
        direction = plane.project((y[:, i] @ z / y[:, i].square().sum())[None])[0]
        length = float(direction.norm())
        if length < 1e-12:
            continue
        direction = direction / length
        told = torch.corrcoef(torch.stack([plane.points.double() @ direction, y[:, i]]))[0, 1]
        if float(told) < UNTOLD:
            continue
        arrows.append(Arrow(name, *(direction * told * plane.points.abs().quantile(0.99)).tolist()))
    return arrows
