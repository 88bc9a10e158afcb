"""How sure is a number? Intervals over episodes and over seeds, and paired tests between models.

Clips of one episode resemble each other, so whole episodes are the units, never clips: an interval is Student's, by how
far a number goes when an episode is left out, and a test turns round the signs of whole episodes. A percentile
bootstrap of few episodes would be too sure of both.
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
"""Of the normal distribution."""
ALL_SIGNS = 13
"""So many episodes at most have all their signs tried; of more, `SIGNS` draws are."""
SIGNS = 9999
ROUNDING = 1e-9
"""Relative differences below it are none."""


class Interval(NamedTuple):
    """95%."""

    low: float
    high: float


class Paired(NamedTuple):
    """The difference of two models on the same clips: the first minus the second."""

    difference: float
    low: float | None
    high: float | None
    p_permutation: float | None
    """Two-sided, of sign flips of whole episodes. None, as the interval, where there is no test."""
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
    numerator: Float[Tensor, " N"], denominator: Float[Tensor, " N"], episode: Int[Tensor, " N"]
) -> Interval | None:
    """Student's, of the sum of one over the sum of the other, over episodes.

    None for fewer than two episodes, or where a value is not finite.
    """
    return _student(*(_per_episode(values, episode) for values in (numerator, denominator)))


def mean_interval(values: Float[Tensor, " N"], episode: Int[Tensor, " N"]) -> Interval | None:
    """Student's, of the mean of values, over episodes; None for fewer than two, or where a value is not finite."""
    return ratio_interval(values, torch.ones_like(values, dtype=torch.float64), episode)


def seed_interval(values: Sequence[float]) -> Interval | None:
    """Student's interval of the mean over seeds; None for fewer than two, or where a value is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    x = torch.tensor(values, dtype=torch.float64)
    half = students_t(len(values) - 1) * float(x.std()) / len(values) ** 0.5
    return Interval(float(x.mean()) - half, float(x.mean()) + half)


def wilson(successes: int, trials: int) -> Interval:
    """Interval of a share of successes (Wilson 1927): never outside 0 to 1, and of some width also at 0 and 1.

    Without trials it is all of 0 to 1.
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    share, z = successes / trials, Z95
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    middle, scale = share + z * z / (2 * trials), 1 + z * z / trials
    # Rounding must not put the share itself outside.
    return Interval(max(0.0, min(share, (middle - spread) / scale)), min(1.0, max(share, (middle + spread) / scale)))


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
    x = torch.tensor(differences, dtype=torch.float64)
    none = ROUNDING * max(map(abs, (*first.values(), *second.values())))
    mean, error = float(x.mean()), float(x.std()) / len(x) ** 0.5
    if float(x.abs().max()) <= none:
        return PairedSeeds(mean, *interval, 1.0, len(x))
    if float(x.max() - x.min()) <= none:
        return None
    return PairedSeeds(mean, *interval, 2 * float(_stats().t.sf(abs(mean) / error, len(x) - 1)), len(x))


def compare_paired(first: Float[Tensor, " N"], second: Float[Tensor, " N"], episode: Int[Tensor, " N"]) -> Paired:
    """Student's interval, sign flips and Wilcoxon's signed-rank test, over episodes, of two models on the same clips.

    Of one episode, or where a value is not finite, there is no interval and no test. Were the models alike, each
    episode's difference could as well have the other sign: p is the share of signs (all of few episodes, else the same
    draws each time) that give a difference as large. Of n episodes it is no smaller than 2^(1-n).

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
    """P-values adjusted for how many there are (Holm 1979); None, or NaN, is no test: it stays None, uncounted."""
    tested = sorted((value, i) for i, value in enumerate(p) if value is not None and not math.isnan(value))
    adjusted: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        adjusted[i] = largest
    return adjusted


@cache
def students_t(freedom: int) -> float:
    """What Student's t stays within with probability `LEVEL`: t is root(f) tan(x), where x has density cos(x)^(f-1)."""
    x = torch.linspace(0, math.pi / 2, 200_001, dtype=torch.float64)
    share = x.cos().pow(freedom - 1).cumsum(0)
    return freedom**0.5 * math.tan(float(x[torch.searchsorted(share, LEVEL * share[-1])]))


def _wilcoxon(differences: Tensor) -> float | None:
    if not bool((differences != 0).any()):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples too small for the normal approximation, which n tells
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
    """Two-sided p of the sum; drawn signs count those that are as well, so that it is never 0."""
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
    """Of the sum of one over the sum of the other, by how far it goes when an episode is left out (the jackknife)."""
    episodes, total = len(top), bottom.sum().clamp_min(1e-30)
    ratio = top.sum() / total
    if episodes < 2 or not (top.isfinite().all() and bottom.isfinite().all()):
        return None
    moves = (top - ratio * bottom) / (total - bottom).clamp_min(1e-30)
    half = students_t(episodes - 1) * float((moves.square().sum() * (episodes - 1) / episodes).sqrt())
    return Interval(float(ratio) - half, float(ratio) + half)
