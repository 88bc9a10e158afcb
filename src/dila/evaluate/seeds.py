"""Paired tests of models over seeds, and the verdict on a claim that one is better.

`dila.evaluate.compare` tests whether models differ on more clips like those of the evaluation; this module tests
whether they would differ if trained again. Both read the same `Result`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dila.analysis.intervals import LEVEL, compare_seeds, holm
from dila.evaluate.result import Better, Result

Verdict = Literal["holds", "reversed", "open"]


@dataclass(frozen=True)
class SeedTest:
    """Paired test of two models over their common seeds: `first` minus `second`."""

    score: str
    better: Better
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    """`p` with Holm's correction over all models tested against `second` in this score."""
    seeds: int


@dataclass(frozen=True)
class Claim:
    """A claim that one model is better than another in a score.

    Args:
        text: the claim.
        source: where it is made.
        score: score by which it is judged here.
        best: the model claimed to be better.
        other: the model claimed to be worse.
        published: the published numbers, in words.
    """

    text: str
    source: str
    score: str
    best: str
    other: str
    published: str = ""


def pair_seeds(results: Sequence[Result], against: str) -> list[SeedTest]:
    """Test every model against one in every score, if they have at least two seeds in common."""
    tests: list[SeedTest] = []
    for score, better in _scores(results).items():
        models = by_seed(results, score)
        base = models.pop(against, {})
        told = {name: found for name, values in models.items() if (found := compare_seeds(values, base)) is not None}
        adjusted = holm([found.p for found in told.values()])
        tests += [
            SeedTest(score, better, name, against, *found[:4], p, found.seeds)
            for (name, found), p in zip(told.items(), adjusted, strict=True)
            if p is not None
        ]
    return tests


def by_seed(results: Sequence[Result], score: str) -> dict[str, dict[int, float]]:
    """Return the values of a score by model and seed."""
    values: dict[str, dict[int, float]] = {}
    for result in results:
        for told in result.scores:
            if told.name == score and told.value is not None and result.subject.seed is not None:
                values.setdefault(result.subject.name, {})[result.subject.seed] = told.value
    return values


def judge(claim: Claim, tests: Sequence[SeedTest]) -> tuple[SeedTest, Verdict] | None:
    """Return the test of a claim, with ``claim.best`` as `first`, and the verdict; None if there is no such test.

    The claim holds or is reversed if the corrected test is significant; else it is open.
    """
    pair = {claim.best, claim.other}
    test = next((t for t in tests if t.score == claim.score and {t.first, t.second} == pair), None)
    if test is None:
        return None
    test = _turned(test, claim.best)
    if test.p_holm >= 1 - LEVEL:
        return test, "open"
    return test, "holds" if (test.difference > 0) == (test.better == "higher") else "reversed"


def _turned(test: SeedTest, first: str) -> SeedTest:
    """Return the same test with this model first."""
    if test.first == first:
        return test
    return replace(
        test, first=test.second, second=test.first, difference=-test.difference, low=-test.high, high=-test.low
    )


def _scores(results: Sequence[Result]) -> Mapping[str, Better]:
    return {score.name: score.better for result in results for score in result.scores}
