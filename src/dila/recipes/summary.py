"""Summary page of a comparison: scores over seeds, paired tests, and verdicts on the paper's claims.

Reads the JSON files of `dila.recipes.compare` and the evaluations of ``runs/evaluate.sh``, and writes Markdown, plots
and one JSON with all numbers.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from dila.errors import DilaError
from dila.evaluate.compare import Cell, Row, compare
from dila.evaluate.plots import Panel, Point, draw_curves, draw_panels
from dila.evaluate.result import Result, Score, Subject, read_results
from dila.evaluate.seeds import SeedTest, by_seed, judge, pair_seeds
from dila.files import write_json, write_text
from dila.recipes.claims import ALONE, BACK, CALLED, CLAIMS, DRAWN, FIGURES, POOLED, PROBE, SCORES, SEEN, beside
from dila.recipes.compared import DILA, GROUPS, TABLES, Settings, families, run_of
from dila.recipes.results import at, check_alike, markdown_table, read_result, scales_of_z, slug, untested

BEGIN, END = "<!-- dila compare summary -->", "<!-- end of summary -->"
"""Text between these lines of a page is replaced; the rest is kept."""

_PANELS = (POOLED, PROBE, SEEN, BACK)


@dataclass(frozen=True)
class Summary:
    """One data set's comparison.

    Args:
        data: name of the data set.
        told: JSON of every run.
        results: finite scores of each run that did not fail.
        failed: error of a failed run, or its non-finite scores, by name and seed.
        rows: each score of each model over its seeds.
        tests: tests of every model against ``against``, paired by seed.
        against: model that the others are compared with.
    """

    data: str
    told: tuple[dict[str, Any], ...]
    results: tuple[Result, ...]
    failed: Mapping[tuple[str, int], str]
    rows: tuple[Row, ...]
    tests: tuple[SeedTest, ...]
    against: str

    @cached_property
    def cells(self) -> dict[str, dict[str, Cell]]:
        """Cells of the rows, by score and model."""
        return {row.score: {cell.model: cell for cell in row.cells} for row in self.rows}

    def to_json(self) -> dict[str, Any]:
        """Return all numbers of the page."""
        return {
            "data": self.data,
            "scores": [asdict(row) for row in self.rows],
            "tests": [asdict(test) for test in self.tests],
            "failed": {f"{name} seed {seed}": why for (name, seed), why in self.failed.items()},
        }


def summarise(folder: Path, against: str = DILA) -> Summary:
    """Read a comparison: a folder with one JSON per run, or the parent of such a folder named ``results``.

    If a run's folder is next to its JSON or next to ``results``, its ``evaluation.json`` is read too.

    Raises:
        DilaError: there are no results, one is damaged, they belong to several comparisons, runs were evaluated on
            different clips, or no run is of ``against``.
        MissingExtra: scipy is not installed.
    """
    place = folder / "results" if (folder / "results").is_dir() else folder
    told = _read(place)
    if against not in {run["name"] for run in told}:
        raise DilaError(f"--against: {folder} has no run of {against}; it has some of {', '.join(_names(told))}")
    runs = place.parent if place.name == "results" else place
    results = [_result(run, runs) for run in told if "failed" not in run]
    failed = {(run["name"], run["seed"]): run["failed"] for run in told if "failed" in run} | _lost(results)
    if len(pins := sorted({result.pins for result in results if result.pins})) > 1:
        raise DilaError(
            f"{runs} has evaluations on different clips, {', '.join(pins)}; evaluate all runs with the same --pins"
        )
    results = [replace(result, pins="", scores=tuple(filter(_finite, result.scores))) for result in results]
    tests: list[SeedTest] = []
    for names in families(_names(told)).values():
        paired = pair_seeds([result for result in results if result.subject.name in (against, *names)], against)
        tests += [test for test in paired if test.score in SCORES | DRAWN | FIGURES]
    data = told[0].get("data", folder.name)
    return Summary(data, tuple(told), tuple(results), failed, tuple(compare(results)), tuple(tests), against)


def write_summary(out: Path, summaries: Sequence[Summary]) -> list[Path]:
    """Write the page, its plots and the JSON of its numbers; returns all paths.

    In an existing page, only the text between `BEGIN` and `END` is replaced.

    Raises:
        DilaError: an existing page lacks these lines, or two comparisons have the same data set.
        MissingExtra: matplotlib is not installed.
    """
    head, tail = _page(out)
    named = [summary.data for summary in summaries]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise DilaError(f"several folders are comparisons on {', '.join(twice)}; write a page for each")
    pictures, parts = [], []
    for summary in summaries:
        drawn = _draw(out, summary)
        pictures += list(drawn)
        parts.append(markdown(summary, {_relative(path, out): caption for path, caption in drawn.items()}))
    write_text(out, f"{head}{BEGIN}\n\n" + "\n".join(parts) + f"\n{END}{tail}")
    numbers = out.with_suffix(".json")
    write_json(numbers, [summary.to_json() for summary in summaries])
    return [out, numbers, *pictures]


def markdown(summary: Summary, pictures: Mapping[str, str]) -> str:
    """Format the section of a comparison: scores, tests by seed, claims, plots with captions, and failed runs."""
    some = summary.told[0]
    made = sorted({f"{run.get('dila_version')} ({run.get('commit') or 'no commit'})" for run in summary.told})
    seeds = max(run["seed"] for run in summary.told) + 1
    lines = [
        f"### {summary.data}",
        "",
        f"Size {some['size']}, {some['steps']} steps of {some['clips'] // some['steps']} clips, up to {seeds} seed(s), "
        f"on {', '.join(sorted({run['device'] for run in summary.told}))}; dila {', '.join(made)}. Mean and 95% "
        "interval over seeds.",
        "",
    ]
    for title, names in families(_names(summary.told)).items():
        shown = [name for name in names if name in _names(summary.told)]
        if shown and (not title or shown != [summary.against]):
            lines += [*([f"**{title}**", ""] if title else []), *_family(summary, shown)]
            lines += [] if title else _claim_table(summary)
    for path, caption in pictures.items():
        lines += [f"![{caption}]({path})", "", f"*{caption}.*", ""]
    failed = [f"- {name}, seed {seed}: {why}" for (name, seed), why in summary.failed.items()]
    return "\n".join([*lines, *(["Failed:", "", *failed, ""] if failed else [])])


def _read(folder: Path) -> list[dict[str, Any]]:
    told = [read_result(path) for path in sorted(folder.glob("*.json"))]
    if not told:
        raise DilaError(f"{folder} has no results of a comparison; make some with: dila compare --out {folder}")
    check_alike(told, folder)
    order = {name: place for place, name in enumerate(GROUPS["all"])}
    return sorted(told, key=lambda run: (order.get(run["name"], len(order)), run["name"], run["seed"]))


def _names(told: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(run["name"] for run in told))


def _result(run: Mapping[str, Any], runs: Path) -> Result:
    """Convert a run to a `Result`, as `dila report` and the tests read it, with the scores of its evaluation."""
    horizon = tuple(at(run, "rollout/by_horizon") or ())
    scores = [
        Score(name, float(value), better=better, by_step=horizon if name == POOLED else ())
        for name, (_, better) in SCORES.items()
        if (value := at(run, name)) is not None
    ]
    file = runs / slug(run["name"], run["seed"]) / "evaluation.json"
    judged = read_results(file) if file.is_file() else []
    drawn = {f"{told.what}/{score.name}": score for told in judged for score in told.scores}
    wanted = dict.fromkeys(name for score in DRAWN for name in (score, *(beside(score, side) for side in ALONE)))
    scores += [Score(name, drawn[name].value, better=drawn[name].better) for name in wanted if name in drawn]
    for figure, (_, better, of) in FIGURES.items():
        matching = (score.value for name, score in drawn.items() if re.fullmatch(of, name))
        if values := [value for value in matching if value is not None]:
            scores.append(Score(figure, fmean(values), better=better))
    subject = Subject(run["name"], run["seed"], str(runs), "", run["parameters"], "")
    return Result("comparison", subject, str(runs), judged[0].pins if judged else "", {}, tuple(scores))


def _finite(score: Score) -> bool:
    return score.value is None or math.isfinite(score.value)


def _lost(results: Sequence[Result]) -> dict[tuple[str, int], str]:
    """Messages about scores that are left out because they are not finite, by name and seed."""
    lost = {}
    for result in results:
        if names := [_heading(score.name) for score in result.scores if not _finite(score)]:
            lost[result.subject.name, result.subject.seed] = f"left out, as not finite: {', '.join(names)}"
    return lost


def _heading(score: str) -> str:
    """Heading of a score, without the arrow."""
    return (SCORES | DRAWN | FIGURES).get(score, (score,))[0].rstrip(" ↑↓")


def _family(summary: Summary, models: Sequence[str]) -> list[str]:
    """Tables of one family of models."""
    return [
        *_score_table(summary, models),
        "",
        *_test_table(summary, SCORES, models),
        *_drawn_tables(summary, models),
        *_figure_table(summary, models),
    ]


def _score_table(summary: Summary, models: Sequence[str]) -> list[str]:
    cells = summary.cells
    shown = [name for name in SCORES if name in cells]
    head = [
        "model",
        "seeds",
        "parameters (vs DiLA)",
        *(SCORES[name][0] for name in shown),
        "scale of z (least)",
        "s to train",
    ]
    lines = []
    for model in models:
        runs = [run for run in summary.told if run["name"] == model and "failed" not in run]
        if not runs:
            lines.append([model, "0", "", *([""] * len(shown)), "", "failed"])
            continue
        scales = scales_of_z(runs, model)
        wide = f"{fmean(scales):.3f} ({min(scales):.3f})" if scales else ""
        seconds = fmean(run["seconds_training"] for run in runs)
        scored = [_cell(cells[name].get(model)) for name in shown]
        lines.append([model, str(len(runs)), _parameters(summary, runs[0]), *scored, wide, f"{seconds:,.0f}"])
    return markdown_table(head, lines)


def _parameters(summary: Summary, run: Mapping[str, Any]) -> str:
    """Number of parameters of a run, with the difference from DiLA in per cent."""
    dila = next((one["parameters"] for one in summary.told if one["name"] == DILA and "failed" not in one), None)
    count = run["parameters"]
    return f"{count:,}" if dila is None or run["name"] == DILA else f"{count:,} ({100 * (count / dila - 1):+.1f}%)"


def _drawn_tables(summary: Summary, models: Sequence[str]) -> list[str]:
    """Tables of scores of decoded frames, as in the paper's tables 1 and 2; empty if there are none."""
    shown, lines = _judged(summary, DRAWN, models)
    if not lines:
        return []
    for side, called in ALONE.items():
        values = [_beside(summary, name, side) for name in shown]
        lines.append([called, "", *("" if cell is None else f"{cell.mean:.3f}" for cell in values)])
    head = ["model", "seeds", *(DRAWN[name][0] for name in shown)]
    told = (
        "Rollouts from one frame and cycle transfer (tables 1 and 2), drawn by one decoder, on the same held-out clips:"
    )
    return [told, "", *markdown_table(head, lines), "", *_test_table(summary, DRAWN, models)]


def _figure_table(summary: Summary, models: Sequence[str]) -> list[str]:
    """Table of the scores of figures 3 to 6; empty if there are none."""
    shown, lines = _judged(summary, FIGURES, models)
    head = ["model", "seeds", *(FIGURES[name][0] for name in shown)]
    told = "What figures 3 to 6 show, in numbers ([which](evaluation.md#figures-in-numbers)):"
    return [told, "", *markdown_table(head, lines), ""] if lines else []


def _judged(
    summary: Summary, scores: Mapping[str, tuple[Any, ...]], models: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Scores that any of the models has, and a table row for each model that has one."""
    cells = summary.cells
    shown = [
        name for name in scores if any(model in cells.get(name, {}) for model in models if model != summary.against)
    ]
    lines = []
    for model in models:
        own = [cells[name].get(model) for name in shown]
        if any(own):
            seeds = max(cell.seeds for cell in own if cell is not None)
            lines.append([model, str(seeds), *map(_cell, own)])
    return shown, lines


def _beside(summary: Summary, score: str, side: str) -> Cell | None:
    """Cell of a reference score (`ALONE`); it is the same for every model, because clips and decoder are."""
    return next(iter(summary.cells.get(beside(score, side), {}).values()), None)


def _test_table(summary: Summary, scores: Mapping[str, tuple[str, Any]], models: Sequence[str]) -> list[str]:
    tests = {(t.first, t.score): t for t in summary.tests if t.score in scores and t.first in models}
    shown = [name for name in scores if any(score == name for _, score in tests)]
    if not shown:
        return [f"No model can be tested against {summary.against} by seed.", ""]
    head = [f"minus {summary.against}, by seed"]
    for name in shown:
        head += [scores[name][0], "p, Holm"]
    lines = []
    for model in [model for model in models if any((model, name) in tests for name in shown)]:
        line = [model]
        for name in shown:
            test = tests.get((model, name))
            line += ["", ""] if test is None else [_signed(test.difference, test.low, test.high), f"{test.p_holm:.3g}"]
        lines.append(line)
    return [*markdown_table(head, lines), ""]


def _claim_table(summary: Summary) -> list[str]:
    lines = []
    for claim in CLAIMS:
        if told := judge(claim, summary.tests):
            test, verdict = told
            found = f"{_signed(test.difference, test.low, test.high)}, {test.seeds} seeds"
            by, _ = (SCORES | DRAWN)[claim.score]
            verdict = untested(summary.told, claim.best, claim.other) or verdict
            lines.append([claim.text, claim.source, claim.published, by, found, f"**{verdict}**"])
    if not lines:
        return []
    head = ["the paper's claim", "where", "published", "judged here by", "difference", "here"]
    return [*markdown_table(head, lines), ""]


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.mean:.3f}" + ("" if cell.low is None else f" [{cell.low:.3f}, {cell.high:.3f}]")


def _signed(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _draw(out: Path, summary: Summary) -> dict[Path, str]:
    """Plot scores with intervals, errors by horizon, and scores by the width of z if there are several widths."""
    lines = {POOLED: 1.0} | {name: cell.mean for name in DRAWN if (cell := _beside(summary, name, "copying"))}
    stem = out.parent / "pictures" / f"{out.stem}-{summary.data}"
    panels = [
        Panel(heading, _points(summary.cells[name]), by_seed(summary.results, name), lines.get(name))
        for name, (heading, _) in (SCORES | DRAWN).items()
        if name in summary.cells and name in _PANELS
    ]
    drawn, dashed = {}, "dashed, the first frame repeated"
    models = {name: CALLED[name] for name in _names(summary.told) if name in TABLES}
    if panels and models:
        path = draw_panels(stem.with_name(f"{stem.name}-scores.png"), models, panels)
        drawn[path] = f"mean over seeds with its 95% interval; small marks are seeds; {dashed}"
    errors = summary.cells.get(POOLED, {})
    if curves := {models[name]: cell.by_step for name, cell in errors.items() if name in models and cell.by_step}:
        frames = range(1, 1 + max(map(len, curves.values())))
        path = draw_curves(
            stem.with_name(f"{stem.name}-horizon.png"), curves, frames, ("frames ahead", "error over copying"), line=1.0
        )
        drawn[path] = f"rollout error over copying by horizon, mean over seeds; {dashed}"
    if len(widths := _by_width(summary)) > 2:
        curves, bands = _along(summary, widths)
        path = draw_curves(
            stem.with_name(f"{stem.name}-widths.png"), curves, list(widths), ("numbers in z", "score"), bands=bands,
            log_x=True,
        )  # fmt: skip
        last = "; the widest has no bottleneck" if "ablation:no-bottleneck" in widths.values() else ""
        drawn[path] = f"scores by the width of z, mean over seeds with its 95% interval{last}"
    return {path: f"{summary.data}: {caption}" for path, caption in drawn.items()}


def _by_width(summary: Summary) -> dict[int, str]:
    """Models that differ only in the width of z, from narrow to wide; the last has no bottleneck."""
    settings = Settings("", size=summary.told[0]["size"])
    named = [name for name in _names(summary.told) if name in GROUPS["widths"]]
    return dict(sorted((run_of(settings, name, 0).model.action_dim, name) for name in named))


def _along(summary: Summary, widths: Mapping[int, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Curve and interval of each score over the widths, if every width has the score."""
    curves, bands = {}, {}
    for name in (POOLED, PROBE):
        cells = summary.cells.get(name, {})
        if all(model in cells for model in widths.values()):
            its = [cells[model] for model in widths.values()]
            curves[SCORES[name][0]] = [cell.mean for cell in its]
            if all(cell.low is not None for cell in its):
                bands[SCORES[name][0]] = ([cell.low for cell in its], [cell.high for cell in its])
    return curves, bands


def _points(cells: Mapping[str, Cell]) -> dict[str, Point]:
    return {model: Point(cell.mean, cell.low, cell.high) for model, cell in cells.items()}


def _page(out: Path) -> tuple[str, str]:
    """Text of the page before and after the summary."""
    if not out.is_file():
        return f"# {out.stem.capitalize()}\n\n", "\n"
    text = out.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise DilaError(f"{out} has no lines {BEGIN} and {END} to write between; add them, or remove the file")
    return head, tail


def _relative(path: Path, out: Path) -> str:
    return path.relative_to(out.parent).as_posix()
