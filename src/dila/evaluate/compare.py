"""Which model is better, and is that more than chance? Many results to one table.

Results of one name are seeds of one model: their mean, with Student's 95% interval over seeds. Two models are compared
where they were judged on the same pinned clips: each clip's value is averaged over a model's seeds, and the differences
are tested by a paired bootstrap over episodes and by Wilcoxon's signed-rank test of the episodes' means. P-values are
adjusted for the number of comparisons of a score (Holm). The tests ask whether models differ on more clips like these,
not on more seeds: that is what the interval over seeds says.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dila.analysis.intervals import Interval, compare_paired, holm, seed_interval
from dila.errors import DilaError
from dila.evaluate.result import Better, Result, Score, read_results
from dila.shapes import Float, Tensor


@dataclass(frozen=True)
class Cell:
    """One model's number over its seeds."""

    model: str
    seeds: int
    mean: float
    low: float | None
    high: float | None
    interval: str
    """What the interval is over: seeds, or the episodes of the only one."""
    by_step: tuple[float, ...] = ()


@dataclass(frozen=True)
class Test:
    """Two models on the same clips: the first minus the second."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_wilcoxon: float | None
    p_holm: float
    """The bootstrap's, adjusted for all tests of this score."""
    episodes: int
    seeds: tuple[int, int]


@dataclass(frozen=True)
class Row:
    """A score of a table for every model."""

    what: str
    score: str
    better: Better
    cells: tuple[Cell, ...]
    tests: tuple[Test, ...]
    steps: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def find_results(paths: Sequence[str | Path]) -> dict[Path, list[Result]]:
    """Results in files, or in ``evaluation.json`` anywhere under folders, by the file they are in.

    Raises:
        DilaError: a path holds none.
    """
    found: dict[Path, list[Result]] = {}
    for path in map(Path, paths):
        files = sorted(path.rglob("evaluation*.json")) if path.is_dir() else [path]
        if not files:
            raise DilaError(f"{path} holds no evaluation.json; make one with: dila eval all {path} DATA")
        for file in files:
            found[file] = read_results(file)
    return found


def compare(results: Sequence[Result]) -> list[Row]:
    """A row for each score of each table on each data set, in the order in which they come."""
    rows = []
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.what, Path(result.data).name, result.pins), []).append(result)
    several = len({key[1:] for key in groups}) > 1
    for (what, data, _), members in groups.items():
        title = f"{what} on {data}" if several else what
        names = dict.fromkeys(score.name for member in members for score in member.scores)
        rows += [row for name in names if (row := _row(title, name, members)) is not None]
    return rows


def _row(what: str, name: str, members: Sequence[Result]) -> Row | None:
    by_model: dict[str, list[tuple[Result, Score]]] = {}
    for member in members:
        for score in member.scores:
            if score.name == name and score.value is not None:
                by_model.setdefault(member.subject.name, []).append((member, score))
    if not by_model:
        return None
    cells = tuple(_cell(model, [score for _, score in told]) for model, told in by_model.items())
    some = next(iter(by_model.values()))[0]
    return Row(what, name, some[1].better, cells, tuple(_tests(by_model)), some[0].steps)


def _cell(model: str, scores: Sequence[Score]) -> Cell:
    values = [float(score.value) for score in scores if score.value is not None]
    interval, over = seed_interval(values), "seeds"
    if interval is None and scores[0].low is not None and scores[0].high is not None:
        interval, over = Interval(scores[0].low, scores[0].high), "episodes"
    low, high = interval or (None, None)
    curves = [score.by_step for score in scores if len(score.by_step) == len(scores[0].by_step)]
    steps = tuple(torch.tensor(curves, dtype=torch.float64).mean(0).tolist()) if curves[0] else ()
    return Cell(model, len(values), sum(values) / len(values), low, high, over if interval else "", steps)


def _tests(by_model: dict[str, list[tuple[Result, Score]]]) -> list[Test]:
    """Every pair of models that has values of the same rows."""
    tests = []
    names = list(by_model)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            rows = by_model[first][0][0].rows
            a, b = (_mean_values(by_model[name], rows) for name in (first, second))
            if a is None or b is None:
                continue
            owners = _owners(rows)
            told = compare_paired(a, b, owners)
            seeds = (len(by_model[first]), len(by_model[second]))
            tests.append(Test(first, second, *told[:5], told.p_bootstrap, told.episodes, seeds))
    adjusted = holm([test.p_bootstrap for test in tests])
    return [replace(test, p_holm=p) for test, p in zip(tests, adjusted, strict=True)]


def _mean_values(told: Sequence[tuple[Result, Score]], rows: tuple[str, ...]) -> Float[Tensor, " N"] | None:
    """Each row's value over the seeds; None unless every seed has just these rows."""
    if not rows or any(result.rows != rows or len(score.values) != len(rows) for result, score in told):
        return None
    return torch.tensor([score.values for _, score in told], dtype=torch.float64).mean(0)


def _owners(rows: Sequence[str]) -> Tensor:
    """The episode of each row, ``episode@frame`` or ``episode``."""
    names = [row.rpartition("@")[0] or row for row in rows]
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([place[name] for name in names])
