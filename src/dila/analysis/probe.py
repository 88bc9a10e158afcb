"""Linear probe: how well y (true actions, positions, ...) can be predicted from x (latent actions) by a linear map.

Ridge regression in closed form and double precision (Hoerl and Kennard 1970), on standardised inputs and centred
targets. Rows of one episode are correlated, so every split is by episode: the held-out episodes for the scores, the
inner held-out episodes that choose the penalty, and the jackknife of the intervals. If there are more input channels
than training rows, as for raw feature maps, the dual problem is solved, whose cost grows with rows instead of channels
(Saunders et al. 1998).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from dila.analysis.intervals import Interval, students_t
from dila.errors import DilaError
from dila.shapes import Bool, Features, Float, Int, Tensor

ALPHAS = tuple(10.0**power for power in range(-6, 5))
"""Ridge penalties to choose from, in units of the number of training rows; inputs are standardised."""

INNER = 0.25
"""Share of the training episodes that choose the penalty."""

_COLUMNS = 4096
_FLAT = 1e-12

Fit = Callable[[Tensor, Tensor, Tensor, Tensor, torch.Generator], tuple[Tensor, float]]
"""Function from standardised training inputs, targets, their episodes, new inputs and a generator to
predictions at the new inputs and the chosen penalty."""


@dataclass(frozen=True)
class ProbeResult:
    """Scores on held-out episodes.

    R² is 1 - (squared error) / (squared distance from the held-out mean) per component of y; ``r2`` is the mean over
    the components that vary. ``mse`` is over all components, in the units of y.
    """

    r2: float
    r2_interval: Interval | None
    """By the jackknife over held-out episodes; None, like `mse_interval`, for a single episode."""
    r2_by_component: tuple[float | None, ...]
    """None for a component that is constant in the held-out rows."""
    mse: float
    mse_interval: Interval | None
    alpha: float
    train_rows: int
    train_episodes: int
    test_rows: int
    test_episodes: int
    mse_by_episode: tuple[float, ...] = ()
    """MSE of each held-out episode, in the order of their numbers, for paired tests."""

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        intervals = {"r2_interval": self.r2_interval, "mse_interval": self.mse_interval}
        return asdict(self) | {name: its and its._asdict() for name, its in intervals.items()}


def probe(
    x: Float[Tensor, "N Dx"],
    y: Float[Tensor, "N Dy"],
    episode: Int[Tensor, " N"],
    *,
    held_out: float | Bool[Tensor, " N"] = 0.3,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
    fit: Fit | None = None,
) -> ProbeResult:
    """Fit y from x on some episodes and score on the others.

    Args:
        x: inputs, one row per transition.
        y: targets.
        episode: episode number of each row.
        held_out: share of the episodes to score on, sampled with ``seed``, or a mask of their rows (whole episodes).
        alphas: penalties to choose from, in units of the number of rows.
        seed: seed of the splits.
        fit: another kind of probe than ridge, such as `dila.analysis.mlp_probe.fit_mlp`, which ignores ``alphas``.

    Raises:
        DilaError: the numbers of rows differ, a value is not finite, there are too few episodes, ``held_out`` splits an
            episode, or no component of y varies in the held-out rows.
    """
    x, y, episode = x.detach().cpu(), y.detach().double().cpu(), episode.cpu()
    _check(x, y, episode)
    generator = torch.Generator().manual_seed(seed)
    test = held_out.cpu() if isinstance(held_out, Tensor) else draw_episodes(episode, held_out, generator)
    if set(episode[test].tolist()) & set(episode[~test].tolist()) or not test.any() or test.all():
        raise DilaError("held_out must select whole episodes, at least one but not all")
    if len(episode[~test].unique()) < 2:
        raise DilaError("a probe needs at least 2 training episodes, because some choose the penalty; hold out fewer")
    inputs = _standardised(x, ~test)
    fit = fit or partial(fit_ridge, alphas=alphas)
    predicted, alpha = fit(inputs[~test], y[~test], episode[~test], inputs[test], generator)
    return _score(predicted, y[test], episode, test, alpha)


def predict(
    x: Float[Tensor, "N Dx"],
    y: Float[Tensor, "N Dy"],
    episode: Int[Tensor, " N"],
    x_new: Float[Tensor, "M Dx"],
    seed: int = 0,
) -> Float[Tensor, "M Dy"]:
    """Fit a ridge probe on all rows, and return its predictions for new inputs.

    Raises:
        DilaError: the numbers of rows differ, a value is not finite, or there are fewer than 4 episodes.
    """
    x, y, episode = x.detach().cpu(), y.detach().double().cpu(), episode.cpu()
    _check(x, y, episode)
    both = torch.cat([x, x_new.detach().cpu()])
    inputs = _standardised(both, torch.arange(len(both)) < len(x))
    return fit_ridge(inputs[: len(x)], y, episode, inputs[len(x) :], torch.Generator().manual_seed(seed))[0]


def fit_ridge(
    x: Float[Tensor, "N Dx"],
    y: Float[Tensor, "N Dy"],
    episode: Int[Tensor, " N"],
    x_new: Float[Tensor, "M Dx"],
    generator: torch.Generator,
    alphas: Sequence[float] = ALPHAS,
) -> tuple[Float[Tensor, "M Dy"], float]:
    """Return ridge predictions at new inputs, and the penalty, chosen on inner held-out episodes: a `Fit`."""
    alpha = _choose(x, y, episode, alphas, generator)
    return _predict(x, y, x_new, [alpha])[0], alpha


def chance(
    x: Float[Tensor, "N Dx"],
    y: Float[Tensor, "N Dy"],
    episode: Int[Tensor, " N"],
    *,
    held_out: float | Bool[Tensor, " N"] = 0.3,
    seed: int = 0,
    **options: Any,
) -> ProbeResult:
    """Run the same probe with shuffled training labels: the score without any relation between x and y.

    Arguments and errors as in `probe`.
    """
    generator = torch.Generator().manual_seed(seed)
    test = held_out.cpu() if isinstance(held_out, Tensor) else draw_episodes(episode.cpu(), held_out, generator)
    train = torch.nonzero(~test).flatten()
    shuffled = y.clone()
    shuffled[train] = y[train[torch.randperm(len(train), generator=generator)]]
    return probe(x, shuffled, episode, held_out=test, seed=seed, **options)


def feature_changes(e: Features) -> Float[Tensor, "N HWD"]:
    """Return the control input: flattened raw feature differences, one row per transition, clip after clip."""
    return (e[:, 1:] - e[:, :-1]).flatten(2).flatten(0, 1)


def _check(x: Tensor, y: Tensor, episode: Tensor) -> None:
    if not len(x) == len(y) == len(episode):
        raise DilaError(f"x has {len(x)} rows, y {len(y)} and episode {len(episode)}; give equally many")
    for name, values in (("x", x), ("y", y)):
        if not values.isfinite().all():
            raise DilaError(f"{name} contains values that are not finite; remove those rows")
    if len(episode.unique()) < 4:
        raise DilaError(f"a probe needs at least 4 episodes, but there are {len(episode.unique())}; give more")


def draw_episodes(episode: Int[Tensor, " N"], share: float, generator: torch.Generator) -> Bool[Tensor, " N"]:
    """Select the rows of a random share of the episodes, at least one and not all."""
    names = episode.unique()
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    return torch.isin(episode, names[torch.randperm(len(names), generator=generator)[:count]])


def _standardised(x: Tensor, train: Tensor) -> Tensor:
    """Scale to zero mean and unit variance over the training rows; channels that are constant there become 0."""
    mean, std = x[train].mean(0), x[train].std(0, correction=0)
    still = std <= _FLAT + 1e-6 * mean.abs()
    return torch.where(still, 0.0, (x - mean) / torch.where(still, 1.0, std))


def _choose(x: Tensor, y: Tensor, episode: Tensor, alphas: Sequence[float], generator: torch.Generator) -> float:
    if len(alphas) == 1:
        return float(alphas[0])
    inner = draw_episodes(episode, INNER, generator)
    fits = _predict(x[~inner], y[~inner], x[inner], alphas)
    scale = y[~inner].var(0, correction=0).clamp_min(_FLAT)
    errors = [float(((fit - y[inner]).square() / scale).mean()) for fit in fits]
    return float(alphas[errors.index(min(errors))])


def _predict(x: Tensor, y: Tensor, x_new: Tensor, alphas: Sequence[float]) -> list[Tensor]:
    """Ridge predictions at ``x_new`` for each penalty, from one eigendecomposition of the smaller side."""
    rows, mean = len(x), y.mean(0)
    if x.shape[1] <= rows:
        x, x_new = x.double(), x_new.double()
        values, vectors = torch.linalg.eigh(x.T @ x)
        left, right = x_new @ vectors, vectors.T @ (x.T @ (y - mean))
    else:
        values, vectors = torch.linalg.eigh(_products(x, x))
        left, right = _products(x_new, x) @ vectors, vectors.T @ (y - mean)
    return [mean + left @ (right / (values.clamp_min(0) + alpha * rows)[:, None]) for alpha in alphas]


def _products(a: Tensor, b: Tensor) -> Float[Tensor, "A B"]:
    """Return ``a @ b.T`` in double precision, by blocks of columns: wide inputs may not fit into memory as double."""
    total = torch.zeros(len(a), len(b), dtype=torch.float64)
    for start in range(0, a.shape[1], _COLUMNS):
        total += a[:, start : start + _COLUMNS].double() @ b[:, start : start + _COLUMNS].double().T
    return total


def _score(predicted: Tensor, y: Tensor, episode: Tensor, test: Tensor, alpha: float) -> ProbeResult:
    """Score predictions of the held-out rows, whose true targets are ``y``."""
    sums = _sums(predicted, y, episode[test])
    every = torch.ones(1, len(sums.rows), dtype=torch.float64)
    r2, mse = _scores(sums, every)
    varies = ~r2[0].isnan()
    if not varies.any():
        raise DilaError("no component of y varies in the held-out rows; hold out more episodes")
    r2s, mses = _scores(sums, every - torch.eye(len(sums.rows), dtype=torch.float64))
    return ProbeResult(
        r2=float(r2[0, varies].mean()),
        r2_interval=_interval(r2[0, varies].mean(), r2s[:, varies].nanmean(1)),
        r2_by_component=tuple(None if value.isnan() else float(value) for value in r2[0]),
        mse=float(mse),
        mse_interval=_interval(mse[0], mses),
        alpha=alpha,
        train_rows=int((~test).sum()),
        train_episodes=len(episode[~test].unique()),
        test_rows=len(y),
        test_episodes=len(sums.rows),
        mse_by_episode=tuple((sums.error.mean(1) / sums.rows).tolist()),
    )


class _Sums(NamedTuple):
    """Per held-out episode: number of rows, and sums over them of squared error, of centred y, and of its square."""

    rows: Float[Tensor, " E"]
    error: Float[Tensor, "E Dy"]
    y: Float[Tensor, "E Dy"]
    square: Float[Tensor, "E Dy"]


def _sums(predicted: Tensor, y: Tensor, episode: Tensor) -> _Sums:
    names, place = episode.unique(return_inverse=True)
    centred = y - y.mean(0)

    def per_episode(values: Tensor) -> Tensor:
        return values.new_zeros(len(names), values.shape[1]).index_add_(0, place, values)

    rows = per_episode(torch.ones(len(y), 1, dtype=torch.float64))[:, 0]
    return _Sums(rows, per_episode((predicted - y).square()), per_episode(centred), per_episode(centred.square()))


def _scores(sums: _Sums, weights: Float[Tensor, "R E"]) -> tuple[Float[Tensor, "R Dy"], Float[Tensor, " R"]]:
    """R² per component (NaN if constant) and MSE, for each weighting of the episodes."""
    rows, error = weights @ sums.rows, weights @ sums.error
    total = weights @ sums.square - (weights @ sums.y).square() / rows[:, None]
    scale = sums.square.sum(0) / sums.rows.sum()
    varies = total > rows[:, None] * (1e-9 * scale + _FLAT)
    r2 = torch.where(varies, 1 - error / total.clamp_min(_FLAT), torch.nan)
    return r2, error.mean(1) / rows


def _interval(score: Tensor, without: Float[Tensor, " E"]) -> Interval | None:
    """Jackknife interval from the scores without each episode; None for one episode, or if such a score is NaN."""
    episodes = len(without)
    if episodes < 2 or not without.isfinite().all():
        return None
    error = ((without - without.mean()).square().sum() * (episodes - 1) / episodes).sqrt()
    half = students_t(episodes - 1) * float(error)
    return Interval(float(score) - half, float(score) + half)
