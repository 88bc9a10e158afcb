"""Results of evaluations: one JSON file with scores, intervals, model, data and settings.

All tables and figures share this format, so that any runs can be compared and reported without knowing the table.
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
_AT_MOST_1 = re.compile(r"\b(r2|r2_by_pairs|accuracy|ssim|trustworthiness)\b|cosine|correlation|^figure[356]/")
_AT_LEAST_0 = re.compile(r"(mse|mse_by_pairs|distance|over_copying|motion_left)\b|^rollout/")
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Score:
    """One score.

    Args:
        name: ``metric/side``, where side is what was measured or a control.
        value: the score; None if it could not be computed.
        low: lower end of its 95% interval over episodes, clipped to the range of the score.
        high: upper end, clipped likewise.
        better: which direction is better.
        values: one value for each of `Result.rows`, for paired tests; may be empty.
        by_step: values by rollout horizon, or along `Result.steps`; may be empty.
        low_by_step: lower ends of their intervals; empty without intervals.
        high_by_step: upper ends, likewise.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    better: Better = "higher"
    values: tuple[float, ...] = ()
    by_step: tuple[float, ...] = ()
    low_by_step: tuple[float, ...] = ()
    high_by_step: tuple[float, ...] = ()

    def __post_init__(self):
        for name, edge in zip(("low", "high"), possible(self.name, self.low, self.high), strict=True):
            object.__setattr__(self, name, edge)


@dataclass(frozen=True)
class Subject:
    """The evaluated model.

    Args:
        name: name of the model, shared by its seeds.
        seed: seed of the run.
        path: folder of the model.
        weights: hash of weights and encoder.
        parameters: number of parameters.
        encoder: name of the encoder.
        decoder: hash of the decoder, its own or that of ``--decoder``; empty without one, and in older results.
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
        what: name of the table, such as ``generation``.
        subject: the model.
        data: path of the data.
        pins: hash of the pinned clips; only results with the same hash are compared clip by clip.
        settings: settings of the evaluation.
        scores: the scores.
        rows: names of the rows of `Score.values`: ``episode@first frame``, or an episode.
        steps: axis of `Score.by_step`; empty means frames ahead.
        notes: sentences about what was omitted, and why.
        pictures: captions by file name; the files are in ``pictures/`` beside the JSON file, or next to it.
        seconds: duration of the evaluation.
        dila_version: version of DiLA.
        version: version of the table's code, see `dila.evaluate.tables.Table`.
        split: hash of the episodes that probes are fitted and scored on; empty in older results.
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
        """Return the score with this name. Raises KeyError if there is none."""
        return {score.name: score for score in self.scores}[name]


def possible(name: str, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """Clip an interval to the range of the score, which Student's interval can exceed (R² is at most 1)."""
    if high is not None and _AT_MOST_1.search(name):
        high = min(high, 1.0)
    if low is not None and _AT_LEAST_0.search(name):
        low = max(low, 0.0)
    return low, high


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write the results of one model atomically."""
    write_json(path, {"format": FORMAT, "results": [to_json(result) for result in results]})


def read_results(path: str | Path) -> list[Result]:
    """Read a file written by `write_results`.

    Raises:
        DilaError: the file is missing, damaged, or in another format.
    """
    stored = read_object(at_home(path), "evaluate again")
    if stored.get("format") != FORMAT or "results" not in stored:
        raise DilaError(f"{path} is not a result of dila eval in format {FORMAT}; evaluate again")
    return [from_json(Result, each, f"{path}: results[{i}]") for i, each in enumerate(stored["results"])]


def score_rows(
    name: str,
    values: Float[Tensor, "N *steps"],
    episode: Int[Tensor, " N"],
    better: Better = "higher",
    by_step: bool = True,
) -> Score:
    """Return a score with one value per row (and step): its mean, with the interval over episodes."""
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
    """Return a score that is a ratio of two sums over rows, with its interval over episodes; no values per row."""
    top, bottom = (part.detach().cpu().double().reshape(len(part), -1) for part in (numerator, denominator))
    interval = ratio_interval(top.mean(1), bottom.mean(1), episode)
    steps = tuple(_rounded(top.mean(0) / bottom.mean(0).clamp_min(1e-30))) if top.shape[1] > 1 else ()
    ratio = float(top.mean() / bottom.mean().clamp_min(1e-30))
    return Score(name, ratio, *edges(interval), better, by_step=steps)


def score_curve(name: str, points: Sequence[Score]) -> Score:
    """Return scores along `Result.steps` as one score: that of the last step, with values and intervals by step."""
    last, by_step = points[-1], tuple(float("nan") if point.value is None else point.value for point in points)
    ends = [(point.low, point.high) for point in points if point.low is not None and point.high is not None]
    low, high = zip(*ends, strict=True) if len(ends) == len(points) else ((), ())
    return Score(name, last.value, last.low, last.high, last.better, (), by_step, low, high)


def numbered(names: Sequence[str]) -> list[int]:
    """Number names in order of first appearance, for example to turn episode ids into episode numbers."""
    places = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return [places[name] for name in names]


def edges(interval: Interval | Sequence[float] | None) -> tuple[float | None, float | None]:
    """Return low and high of an interval, also of one read from JSON, or None twice."""
    return (None, None) if interval is None else (interval[0], interval[1])


def print_scores(results: Iterable[Result]) -> None:
    """Print one line per score."""
    for result in results:
        print(f"{result.what}: {result.subject.name}, {len(result.rows)} rows, {result.seconds:.0f} s")
        for score in result.scores:
            told = "-" if score.value is None else f"{score.value:.4f}"
            interval = "" if score.low is None else f"  [{score.low:.4f}, {score.high:.4f}]"
            print(f"  {score.name:<44} {told:>10}{interval}")
        for note in result.notes:
            print(f"  note: {note}")


def _rounded(values: Tensor) -> list[float]:
    """Round to eight digits: enough to compare results to 1e-6, and still readable."""
    return [float(f"{value:.8g}") for value in values.tolist()]
