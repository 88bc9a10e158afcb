"""Combine many results into one table, and test whether models differ.

Results with the same name are seeds of one model: the table has their mean with Student's 95% interval over seeds. Two
models are compared if they were evaluated on the same pinned clips: each clip's value is averaged over a model's seeds,
and the differences are tested by sign flips of whole episodes and by Wilcoxon's signed-rank test of the episode means.
P-values of the sign flips are corrected for the number of comparisons of a score (Holm). The tests generalise to more
clips like these, the intervals to more seeds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dila.analysis.intervals import Interval, compare_paired, holm, seed_interval
from dila.errors import DilaError
from dila.evaluate.result import Better, Result, Score, numbered, possible, read_results
from dila.evaluate.tables import hashes_of, owners_of, settings_of
from dila.shapes import Float, Tensor


@dataclass(frozen=True)
class Cell:
    """Mean score of one model over its seeds."""

    model: str
    seeds: int
    mean: float
    low: float | None
    high: float | None
    interval: str
    """What the interval is over: "seeds", or "episodes" for a single seed; empty without an interval."""
    by_step: tuple[float, ...] = ()
    low_by_step: tuple[float, ...] = ()
    high_by_step: tuple[float, ...] = ()


@dataclass(frozen=True)
class Test:
    """Paired test of two models on the same clips: the first minus the second."""

    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    p_permutation: float | None
    p_wilcoxon: float | None
    p_holm: float | None
    """`p_permutation` with Holm's correction over all tests of this score."""
    episodes: int
    seeds: tuple[int, int]


@dataclass(frozen=True)
class Row:
    """One score of a table, for all models."""

    what: str
    """Title: the table, with the data and settings if there are several."""
    score: str
    better: Better
    cells: tuple[Cell, ...]
    tests: tuple[Test, ...]
    steps: tuple[int, ...] = ()

    @property
    def table(self) -> str:
        """Name of the table."""
        return self.what.split(" on ")[0].split(",")[0]


def find_results(paths: Sequence[str | Path]) -> dict[Path, list[Result]]:
    """Read the results of files, and of every ``evaluation*.json`` below folders, by file.

    Raises:
        DilaError: a folder contains no such file, or a file cannot be read.
    """
    found: dict[Path, list[Result]] = {}
    for path in map(Path, paths):
        files = sorted(path.rglob("evaluation*.json")) if path.is_dir() else [path]
        if not files:
            raise DilaError(f"{path} contains no evaluation.json; make one with: dila eval all {path} DATA")
        for file in files:
            found[file] = read_results(file)
    return found


def distinct(found: Mapping[Path, Sequence[Result]]) -> list[Result]:
    """Return the results of all files without duplicates.

    Raises:
        DilaError: results of two models, decoders or splits have the same name and seed.
    """
    kept: dict[Any, Result] = {}
    seen: dict[Any, tuple[Path, Any]] = {}
    for file, result in ((file, result) for file, results in found.items() for result in results):
        subject, group = result.subject, _group(result)
        for key, told in (
            ((Path(result.data).name, subject.name, subject.seed), subject.weights),
            ((group, subject.name, subject.seed), hashes_of(result)),
        ):
            first, its = seen.setdefault(key, (file, told))
            if its != told:
                raise DilaError(
                    f"{first} and {file} have the same name and seed ({subject.name} {subject.seed}) but different "
                    "models, decoders or training episodes; evaluate one with another --name or --run-seed"
                )
        kept.setdefault((group, subject.name, hashes_of(result)), result)
    return list(kept.values())


def compare(results: Sequence[Result]) -> list[Row]:
    """Return one row per score, table, data set, pinned clips and settings, in order of appearance."""
    rows = []
    groups: dict[_Group, list[Result]] = {}
    for result in results:
        groups.setdefault(_group(result), []).append(result)
    for group, members in groups.items():
        title = _title(group, list(groups))
        names = dict.fromkeys(score.name for member in members for score in member.scores)
        rows += [row for name in names if (row := _row(title, name, members)) is not None]
    return rows


class _Group(NamedTuple):
    """What results must have in common to be compared."""

    what: str
    data: str
    pins: str
    settings: str
    """The settings that the table reads, as JSON."""

    @property
    def told(self) -> dict[str, Any]:
        return {"pins": self.pins} | json.loads(self.settings)


def _group(result: Result) -> _Group:
    settings = json.dumps(settings_of(result), sort_keys=True)
    return _Group(result.what, Path(result.data).name, result.pins, settings)


def _title(group: _Group, groups: Sequence[_Group]) -> str:
    """The table, the data if there are several, and the settings that differ between groups of this table and data."""
    several = len({other.data for other in groups}) > 1
    beside = [other.told for other in groups if other[:2] == group[:2]]
    differing = {name: value for name, value in group.told.items() if any(other.get(name) != value for other in beside)}
    title = f"{group.what} on {group.data}" if several else group.what
    return title + "".join(f", {name} = {_said(value)}" for name, value in differing.items())


def _said(value: Any) -> str:
    return (" ".join(map(str, value)) or "all") if isinstance(value, list) else str(value)


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
    low, high = possible(scores[0].name, *(interval or (None, None)))
    curves = [score.by_step for score in scores if len(score.by_step) == len(scores[0].by_step)]
    steps = tuple(torch.tensor(curves, dtype=torch.float64).mean(0).tolist()) if curves[0] else ()
    bands = _bands(scores[0].name, curves) if len(curves) > 1 else (scores[0].low_by_step, scores[0].high_by_step)
    return Cell(model, len(values), sum(values) / len(values), low, high, over if interval else "", steps, *bands)


def _bands(name: str, curves: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lower and upper ends of the intervals over seeds of each step; empty if there is a step without."""
    found = [seed_interval(values) for values in zip(*curves, strict=True)]
    ends = [possible(name, *interval) for interval in found if interval]
    low, high = zip(*ends, strict=True) if ends and len(ends) == len(found) else ((), ())
    return low, high


def _tests(by_model: dict[str, list[tuple[Result, Score]]]) -> list[Test]:
    """Test every pair of models that have values for the same rows."""
    tests = []
    names = list(by_model)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            rows = by_model[first][0][0].rows
            a, b = (_mean_values(by_model[name], rows) for name in (first, second))
            if a is None or b is None:
                continue
            told = compare_paired(a, b, torch.tensor(numbered(owners_of(by_model[first][0][0]))))
            seeds = (len(by_model[first]), len(by_model[second]))
            tests.append(Test(first, second, *told[:5], told.p_permutation, told.episodes, seeds))
    adjusted = holm([test.p_permutation for test in tests])
    return [replace(test, p_holm=p) for test, p in zip(tests, adjusted, strict=True)]


def _mean_values(told: Sequence[tuple[Result, Score]], rows: tuple[str, ...]) -> Float[Tensor, " N"] | None:
    """Mean over the seeds of each row's value; None unless every seed has exactly these rows."""
    if not rows or any(result.rows != rows or len(score.values) != len(rows) for result, score in told):
        return None
    return torch.tensor([score.values for _, score in told], dtype=torch.float64).mean(0)
