"""Confidence intervals over episodes and seeds, and paired tests between models.

Clips of one episode are correlated, so the units are whole episodes, never clips: intervals are Student's, with the
jackknife standard error (from leaving out one episode at a time), and permutation tests flip the signs of whole
episodes. A percentile bootstrap of few episodes would be too narrow.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch

from dila.errors import MissingExtra
from dila.shapes import Float, Int, Tensor

LEVEL = 0.95
Z95 = 1.959963984540054
"""97.5% quantile of the normal distribution."""
ALL_SIGNS = 13
"""Maximum number of episodes for which all sign patterns are tried; for more, `SIGNS` random ones are."""
SIGNS = 9999
ROUNDING = 1e-9
"""Relative differences below this count as zero."""


class Interval(NamedTuple):
    """95% confidence interval."""

    low: float
    high: float


class Paired(NamedTuple):
    """Difference of two models on the same clips: the first minus the second."""

    difference: float
    low: float | None
    high: float | None
    p_permutation: float | None
    """Two-sided p of sign flips of whole episodes. None, like the interval, if there is no test."""
    p_wilcoxon: float | None
    """p of Wilcoxon's test of the episodes' mean differences; None if all are zero."""
    episodes: int


class PairedSeeds(NamedTuple):
    """Difference of two models over their common seeds: the first minus the second."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided p of Student's paired test."""
    seeds: int


def ratio_interval(
    numerator: Float[Tensor, " N"], denominator: Float[Tensor, " N"], episode: Int[Tensor, " N"]
) -> Interval | None:
    """Return Student's interval, over episodes, of the ratio of two sums.

    None for fewer than two episodes, or if a value is not finite.
    """
    return _student(*(_per_episode(values, episode) for values in (numerator, denominator)))


def mean_interval(values: Float[Tensor, " N"], episode: Int[Tensor, " N"]) -> Interval | None:
    """Return Student's interval of the mean over episodes; None for fewer than two, or if a value is not finite."""
    return ratio_interval(values, torch.ones_like(values, dtype=torch.float64), episode)


def seed_interval(values: Sequence[float]) -> Interval | None:
    """Return Student's interval of the mean over seeds; None for fewer than two, or if a value is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    x = torch.tensor(values, dtype=torch.float64)
    half = students_t(len(values) - 1) * float(x.std()) / len(values) ** 0.5
    return Interval(float(x.mean()) - half, float(x.mean()) + half)


def wilson(successes: int, trials: int) -> Interval:
    """Return Wilson's interval (1927) of a success rate: within 0 to 1, and of nonzero width also at 0 and 1.

    Without trials it is 0 to 1.
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    share, z = successes / trials, Z95
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    middle, scale = share + z * z / (2 * trials), 1 + z * z / trials
    # Rounding must not exclude the rate itself.
    return Interval(max(0.0, min(share, (middle - spread) / scale)), min(1.0, max(share, (middle + spread) / scale)))


def compare_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> PairedSeeds | None:
    """Return Student's paired test of two models by seed: runs of one seed share data, clip order and random numbers.

    None for fewer than two common seeds, if a value is not finite, or if all differences are equal but not 0 (as when a
    seed was copied): without variance there is no standard error.

    Raises:
        MissingExtra: scipy is not installed.
    """
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    interval = seed_interval(differences)
    if interval is None:
        return None
    x = torch.tensor(differences, dtype=torch.float64)
    none = ROUNDING * max(map(abs, (*first.values(), *second.values())))
    mean, error = float(x.mean()), float(x.std()) / len(x) ** 0.5
    if float(x.abs().max()) <= none:
        return PairedSeeds(mean, *interval, 1.0, len(x))
    if float(x.max() - x.min()) <= none:
        return None
    return PairedSeeds(mean, *interval, 2 * float(_stats().t.sf(abs(mean) / error, len(x) - 1)), len(x))


def compare_paired(first: Float[Tensor, " N"], second: Float[Tensor, " N"], episode: Int[Tensor, " N"]) -> Paired:
    """Compare two models on the same clips, by episode: Student's interval, sign flips and Wilcoxon's signed-rank test.

    With one episode, or if a value is not finite, there is no interval and no test. If the models were equal, the sign
    of each episode's difference would be random: p is the share of sign patterns (all for few episodes, else a fixed
    random sample) with a difference as large as the observed one. With n episodes it is at least 2^(1-n).

    Raises:
        MissingExtra: scipy is not installed.
    """
    difference = first.double() - second.double()
    total, count = _per_episode(difference, episode), _per_episode(torch.ones_like(difference), episode)
    interval = _student(total, count)
    if interval is None:
        return Paired(float(difference.mean()), None, None, None, None, len(total))
    p = _sign_flips(total)
    return Paired(float(difference.mean()), *interval, p, _wilcoxon(total / count), len(total))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return p-values with Holm's correction (1979); None and NaN mean no test, are not counted, and become None."""
    tested = sorted((value, i) for i, value in enumerate(p) if value is not None and not math.isnan(value))
    adjusted: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        adjusted[i] = largest
    return adjusted


@cache
def students_t(freedom: int) -> float:
    """Two-sided quantile of Student's t at `LEVEL`: t = sqrt(f) tan(x), where x has the density cos(x)^(f-1)."""
    x = torch.linspace(0, math.pi / 2, 200_001, dtype=torch.float64)
    share = x.cos().pow(freedom - 1).cumsum(0)
    return freedom**0.5 * math.tan(float(x[torch.searchsorted(share, LEVEL * share[-1])]))


def _wilcoxon(differences: Tensor) -> float | None:
    if not bool((differences != 0).any()):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the sample is small; the number of episodes is reported
        return float(_stats().wilcoxon(differences.numpy()).pvalue)


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtra("a paired test", "scipy", "analysis") from error
    return stats


def _per_episode(values: Tensor, episode: Tensor) -> Float[Tensor, " E"]:
    names, place = episode.cpu().unique(return_inverse=True)
    return torch.zeros(len(names), dtype=torch.float64).index_add_(0, place, values.detach().cpu().double())


def _sign_flips(totals: Float[Tensor, " E"]) -> float:
    """Two-sided p of the sum; random sign patterns include the observed one, so that p is never 0."""
    if len(totals) <= ALL_SIGNS:
        places = torch.arange(2 ** len(totals))[:, None] >> torch.arange(len(totals))
        flips = places & 1
    else:
        generator = torch.Generator().manual_seed(0)
        flips = torch.randint(2, (SIGNS + 1, len(totals)), generator=generator)
        flips[0] = 0
    sums = ((1 - 2 * flips).double() @ totals).abs()
    return float((sums >= sums[0] - ROUNDING * float(totals.abs().sum())).double().mean())


def _student(top: Float[Tensor, " E"], bottom: Float[Tensor, " E"]) -> Interval | None:
    """Student's interval of the ratio of two sums, with the jackknife standard error."""
    episodes, total = len(top), bottom.sum().clamp_min(1e-30)
    ratio = top.sum() / total
    if episodes < 2 or not (top.isfinite().all() and bottom.isfinite().all()):
        return None
    moves = (top - ratio * bottom) / (total - bottom).clamp_min(1e-30)
    half = students_t(episodes - 1) * float((moves.square().sum() * (episodes - 1) / episodes).sqrt())
    return Interval(float(ratio) - half, float(ratio) + half)
