"""What an evaluation leaves behind: one JSON file that says what was measured, on what, by which model, how sure.

Every table and figure writes the same shape, so that any runs can be compared and reported without knowing the table.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dila.analysis.intervals import Interval, mean_interval, ratio_interval
from dila.configs import from_json, to_json
from dila.errors import DilaError
from dila.files import at_home, read_object, write_json
from dila.shapes import Float, Int, Tensor

FORMAT = 1
_AT_MOST_1 = re.compile(r"\b(r2|accuracy|ssim|trustworthiness)\b|cosine|correlation|^figure[356]/")
_AT_LEAST_0 = re.compile(r"(mse|distance|over_copying|motion_left)\b|^rollout/")
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Score:
    """One number.

    Args:
        name: what, ``metric/of what``.
        value: the number; None where it could not be had.
        low: of its 95% interval over episodes, no lower than such a score can be.
        high: of the same, no higher.
        better: which way is good.
        values: of each of `Result.rows`, where there is one a row: what paired tests are made of.
        by_step: by frames ahead, or along `Result.steps`.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    better: Better = "higher"
    values: tuple[float, ...] = ()
    by_step: tuple[float, ...] = ()

    def __post_init__(self):
        for name, edge in zip(("low", "high"), possible(self.name, self.low, self.high), strict=True):
            object.__setattr__(self, name, edge)


@dataclass(frozen=True)
class Subject:
    """Who was measured.

    Args:
        name: shared by the seeds of a run.
        seed: of the run.
        path: of the folder.
        weights: hash of weights and encoder.
        parameters: how many.
        encoder: name of it.
        decoder: hash of what draws, its own or a borrowed one; empty where nothing does, and in older results.
    """

    name: str
    seed: int | None
    path: str
    weights: str
    parameters: int
    encoder: str
    decoder: str = ""


@dataclass(frozen=True)
class Result:
    """A table or figure of one model.

    Args:
        what: the table, such as ``generation``.
        subject: the model.
        data: path of the data.
        pins: hash of the clips it is made on; only results with the same one are compared clip by clip.
        settings: what it was made with.
        scores: the numbers.
        rows: what `Score.values` belong to, as the table has it: ``episode@first frame``, or an episode.
        steps: what `Score.by_step` is along; frames ahead when empty.
        notes: what was left out and why, in sentences.
        pictures: files beside the JSON, relative to it, with a caption each.
        seconds: that it took.
        dila_version: that made it.
        version: of the table's code, see `dila.evaluate.tables.Table`.
        split: hash of the episodes that probes are fitted and judged on; empty in older results.
    """

    what: str
    subject: Subject
    data: str
    pins: str
    settings: dict[str, Any]
    scores: tuple[Score, ...]
    rows: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    dila_version: str = ""
    split: str = ""
    version: int = 1

    def score(self, name: str) -> Score:
        """The score of this name. Raises KeyError."""
        return {score.name: score for score in self.scores}[name]


def possible(name: str, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """An interval as far as a score of this name can be there: Student's knows no bounds, and an R² has one."""
    if high is not None and _AT_MOST_1.search(name):
        high = min(high, 1.0)
    if low is not None and _AT_LEAST_0.search(name):
        low = max(low, 0.0)
    return low, high


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write the results of one model, whole or not at all."""
    write_json(path, {"format": FORMAT, "results": [to_json(result) for result in results]})


def read_results(path: str | Path) -> list[Result]:
    """The results in a file that `write_results` wrote.

    Raises:
        DilaError: it is missing, damaged, or something else.
    """
    stored = read_object(at_home(path), "evaluate again")
    if stored.get("format") != FORMAT or "results" not in stored:
        raise DilaError(f"{path} is no result of dila eval of format {FORMAT}; evaluate again")
    return [from_json(Result, each, f"{path}: results[{i}]") for i, each in enumerate(stored["results"])]


def score_rows(
    name: str,
    values: Float[Tensor, "N *steps"],
    episode: Int[Tensor, " N"],
    better: Better = "higher",
    by_step: bool = True,
) -> Score:
    """A score with one value a row (and step), its mean, and the interval of that over episodes."""
    values = values.detach().cpu().double()
    rows = values.reshape(len(values), -1).mean(1)
    steps = tuple(_rounded(values.mean(0).reshape(-1))) if by_step and values.ndim > 1 else ()
    return Score(name, float(rows.mean()), *edges(mean_interval(rows, episode)), better, tuple(_rounded(rows)), steps)


def score_ratio(
    name: str,
    numerator: Float[Tensor, "N *steps"],
    denominator: Float[Tensor, "N *steps"],
    episode: Int[Tensor, " N"],
    better: Better = "lower",
) -> Score:
    """A score that is a sum over rows over another sum, with its interval over episodes; no value a row."""
    top, bottom = (part.detach().cpu().double().reshape(len(part), -1) for part in (numerator, denominator))
    interval = ratio_interval(top.mean(1), bottom.mean(1), episode)
    steps = tuple(_rounded(top.mean(0) / bottom.mean(0).clamp_min(1e-30))) if top.shape[1] > 1 else ()
    ratio = float(top.mean() / bottom.mean().clamp_min(1e-30))
    return Score(name, ratio, *edges(interval), better, by_step=steps)


def numbered(names: Sequence[str]) -> list[int]:
    """Each name's number, in the order in which they come: episodes as intervals and tests take them."""
    places = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return [places[name] for name in names]


def edges(interval: Interval | None) -> tuple[float | None, float | None]:
    """Low and high of an interval, where there is one."""
    return (None, None) if interval is None else (interval.low, interval.high)


def print_scores(results: Iterable[Result]) -> None:
    """A line a score."""
    for result in results:
        print(f"{result.what}: {result.subject.name}, {len(result.rows)} rows, {result.seconds:.0f} s")
        for score in result.scores:
            told = "-" if score.value is None else f"{score.value:.4f}"
            interval = "" if score.low is None else f"  [{score.low:.4f}, {score.high:.4f}]"
            print(f"  {score.name:<44} {told:>10}{interval}")
        for note in result.notes:
            print(f"  note: {note}")


def _rounded(values: Tensor) -> list[float]:
    """Eight digits: enough to compare to 1e-6, and a file that can be read."""
    return [float(f"{value:.8g}") for value in values.tolist()]
