"""How sure is a number? Bootstraps over episodes, intervals over seeds, and paired tests between models.

Clips of one episode resemble each other, so whole episodes are drawn (a cluster bootstrap), never clips.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from dila.errors import MissingExtra
from dila.shapes import Float, Int, Tensor

LEVEL = 0.95
RESAMPLES = 2000
ROUNDING = 1e-9
"""Relative differences below it are none."""


class Interval(NamedTuple):
    """Middle 95%."""

    low: float
    high: float


class Paired(NamedTuple):
    """The difference of two models on the same clips: the first minus the second."""

    difference: float
    low: float | None
    high: float | None
    p_bootstrap: float | None
    """Two-sided: twice the share of resamples on the other side of 0. None, as the interval, where there is no test."""
    p_wilcoxon: float | None
    """Of the episodes' mean differences; None where there are none that differ."""
    episodes: int


class PairedSeeds(NamedTuple):
    """The difference of two models over the seeds that both have: the first minus the second."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided, of Student's paired test."""
    seeds: int


def ratio_interval(
    numerator: Float[Tensor, " N"], denominator: Float[Tensor, " N"], episode: Int[Tensor, " N"], seed: int = 0
) -> Interval | None:
    """Of the sum of one over the sum of the other, over resampled episodes.

    None for fewer than two episodes, or where a value is not finite.
    """
    top, bottom = (_per_episode(values, episode) for values in (numerator, denominator))
    picks = _picks(len(top), seed)
    return _middle(top[picks].sum(1) / bottom[picks].sum(1).clamp_min(1e-30), len(top))


def mean_interval(values: Float[Tensor, " N"], episode: Int[Tensor, " N"], seed: int = 0) -> Interval | None:
    """Of the mean of values, over resampled episodes; None for fewer than two, or where a value is not finite."""
    values = values.double()
    top, count = _per_episode(values, episode), _per_episode(torch.ones_like(values), episode)
    picks = _picks(len(top), seed)
    return _middle(top[picks].sum(1) / count[picks].sum(1), len(top))


def seed_interval(values: Sequence[float]) -> Interval | None:
    """Student's interval of the mean over seeds; None for fewer than two, or where a value is not finite.

    Raises:
        MissingExtra: scipy is not installed.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    try:
        from scipy.stats import t
    except ImportError as error:
        raise MissingExtra("an interval over seeds", "scipy", "analysis") from error
    x = torch.tensor(values, dtype=torch.float64)
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * float(x.std()) / len(values) ** 0.5
    return Interval(float(x.mean()) - half, float(x.mean()) + half)


def compare_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> PairedSeeds | None:
    """Student's paired test of two models' values by seed: a seed shares data, order of clips and draws.

    None where fewer than two seeds are of both, where a value is not finite, and where the differences are all the same
    and not 0, as a copied seed has them: without a spread nothing says how sure the difference is.

    Raises:
        MissingExtra: scipy is not installed.
    """
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    interval = seed_interval(differences)
    if interval is None:
        return None
    from scipy.stats import t

    x = torch.tensor(differences, dtype=torch.float64)
    none = ROUNDING * max(map(abs, (*first.values(), *second.values())))
    mean, error = float(x.mean()), float(x.std()) / len(x) ** 0.5
    if float(x.abs().max()) <= none:
        return PairedSeeds(mean, *interval, 1.0, len(x))
    if float(x.max() - x.min()) <= none:
        return None
    return PairedSeeds(mean, *interval, 2 * float(t.sf(abs(mean) / error, len(x) - 1)), len(x))


def compare_paired(
    first: Float[Tensor, " N"], second: Float[Tensor, " N"], episode: Int[Tensor, " N"], seed: int = 0
) -> Paired:
    """Paired bootstrap over episodes and Wilcoxon's signed-rank test of two models' values on the same clips.

    Of one episode, or where a value is not finite, there is no interval and no test. Of n episodes the bootstrap's p is
    no smaller than 2^(1-n), the least that a two-sided sign test of n can give: where few episodes all lie on one side,
    no resample of them ever sees the other.

    Raises:
        MissingExtra: scipy is not installed.
    """
    difference = first.double() - second.double()
    total, count = _per_episode(difference, episode), _per_episode(torch.ones_like(difference), episode)
    picks = _picks(len(total), seed)
    means = total[picks].sum(1) / count[picks].sum(1)
    interval = _middle(means, len(total))
    if interval is None:
        return Paired(float(difference.mean()), None, None, None, None, len(total))
    # Half of one resample is added to both sides: no test on finitely many resamples gives 0.
    side = min(float((means <= 0).double().mean()), float((means >= 0).double().mean()))
    p = min(1.0, 2 * max(side, 0.5 / len(means), 0.5 ** len(total)))
    return Paired(float(difference.mean()), *interval, p, _wilcoxon(total / count), len(total))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for how many there are (Holm 1979); None, or NaN, is no test: it stays None, uncounted."""
    tested = sorted((value, i) for i, value in enumerate(p) if value is not None and not math.isnan(value))
    adjusted: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        adjusted[i] = largest
    return adjusted


def _wilcoxon(differences: Tensor) -> float | None:
    try:
        from scipy.stats import wilcoxon
    except ImportError as error:
        raise MissingExtra("Wilcoxon's test", "scipy", "analysis") from error
    if not bool((differences != 0).any()):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples too small for the normal approximation, which n tells
        tested: Any = wilcoxon(differences.numpy())
    return float(tested.pvalue)


def _per_episode(values: Tensor, episode: Tensor) -> Float[Tensor, " E"]:
    names, place = episode.cpu().unique(return_inverse=True)
    return torch.zeros(len(names), dtype=torch.float64).index_add_(0, place, values.detach().cpu().double())


def _picks(episodes: int, seed: int) -> Int[Tensor, "R E"]:
    return torch.randint(episodes, (RESAMPLES, episodes), generator=torch.Generator().manual_seed(seed))


def _middle(values: Float[Tensor, " R"], episodes: int) -> Interval | None:
    """Of what resamples of so many episodes give; those of one are all the same, and say nothing."""
    if episodes < 2 or not values.isfinite().all():
        return None
    edges = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=values.dtype)
    return Interval(*torch.quantile(values, edges).tolist())
