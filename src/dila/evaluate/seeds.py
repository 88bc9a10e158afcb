"""Is one model better than another, over seeds? Paired tests by seed, and what they say of a claim.

`dila.evaluate.compare` asks whether models differ on more clips like those they were judged on; here it is whether
they would if they were trained again. Both read the same `Result`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dila.analysis.intervals import LEVEL, compare_seeds, holm
from dila.evaluate.result import Better, Result

Verdict = Literal["holds", "reversed", "open"]


@dataclass(frozen=True)
class SeedTest:
    """A model against another over the seeds that both have: `first` minus `second`."""

    score: str
    better: Better
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    """Adjusted for all that are tested against `second` in this score."""
    seeds: int


@dataclass(frozen=True)
class Claim:
    """That one model is better than another in a score.

    Args:
        text: what is claimed.
        source: where.
        score: in which it is judged here.
        best: the model that is claimed to be better.
        other: than this one.
        published: the numbers behind it, in words.
    """

    text: str
    source: str
    score: str
    best: str
    other: str
    published: str = ""


def pair_seeds(results: Sequence[Result], against: str) -> list[SeedTest]:
    """Every model against one, score by score in the order in which they come; those with two seeds in common."""
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
    """The values of a score by model and seed."""
    values: dict[str, dict[int, float]] = {}
    for result in results:
        for told in result.scores:
            if told.name == score and told.value is not None and result.subject.seed is not None:
                values.setdefault(result.subject.name, {})[result.subject.seed] = told.value
    return values


def judge(claim: Claim, tests: Sequence[SeedTest]) -> tuple[SeedTest, Verdict] | None:
    """The test of a claim, the better model first, and what it says; None where there is no such test.

    A claim holds, or the reverse of it does, where the adjusted test finds the difference; else it is open.
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
    """The same test with this model first."""
    if test.first == first:
        return test
    return replace(
        test, first=test.second, second=test.first, difference=-test.difference, low=-test.high, high=-test.low
    )


def _scores(results: Sequence[Result]) -> Mapping[str, Better]:
    return {score.name: score.better for result in results for score in result.scores}
