"""Self-contained page of any results: tables over models, paired tests, curves, pictures and videos."""

import tempfile
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dila.errors import DilaError
from dila.evaluate.compare import Cell, Row, Test, compare, distinct
from dila.evaluate.page import Figure, Section, Table, Tile, write_page
from dila.evaluate.plots import Point, draw_bars, draw_curves, draw_lines
from dila.evaluate.result import Result
from dila.train.log import FILE, read_log

ABOUT = {
    "generation": "Frames imagined from the context under the clip's own latent actions (table 1).",
    "cycle": "Latent actions transferred to another scene, inferred again there, and transferred back (table 2).",
    "probe": "True actions predicted from latent actions on held-out episodes, with controls (table 3).",
    "disentangle": "What structure, content, content memory and latent action encode of the known factors (figure 5).",
    "motion": "Structure of one clip with the content of another, and frozen structure (figure 4).",
    "manifold": "Latent actions against the true parameters of the transforms (figure 6).",
    "transfer": "The latent actions of one clip in the scenes of others (figures 3 and 8).",
    "sceptic": "A background that moves independently of the action: what z and s encode of each.",
}
LEARNING = (
    ("train", "total", "training loss"),
    ("evaluation", "rollout_ratio", "error of held-out rollouts over copying ↓"),
    ("train", "rank_z", "effective rank of z"),
    ("train", "scale_z", "scale of z"),
)
"""Plots of a run's log: kind of record, key, title."""
HEADLINES = (
    ("generation", "feature_error_over_copying", "rollout error in features, over repeating the last frame"),
    ("generation", "ssim/imagined", "SSIM of imagined frames"),
    ("cycle", "cycle_over_copying", "error of the cycle transfer, over repeating the first frame"),
    ("probe", "r2/z/ridge", "R² of a linear probe from z"),
    ("sceptic", "selectivity/z", "R² for the action minus that for the background's motion"),
)
NO_MODEL = ("copying", "decoder", "shuffled", "untrained", "features")
"""Baselines and controls, whose scores say nothing about a model: not tested on the page."""
CLIPS = 12
"""Maximum number of pictures and videos per table, over all models."""
_SPELT = {"r2": "R²", "mse": "MSE", "ssim": "SSIM", "psnr": "PSNR", "lpips": "LPIPS", "fvd": "FVD"}
_BETTER = {"higher": " ↑", "lower": " ↓", "neither": ""}


def write_report(path: Path, found: Mapping[Path, Sequence[Result]], against: str | None = None) -> list[Row]:
    """Write the page atomically, and return the comparison that it shows.

    Args:
        path: the .html file to write.
        found: results by file.
        against: model that the others are tested against on the page; None means the first. The returned comparison
            contains the tests of all pairs.

    Raises:
        DilaError: there are no results, none of the model ``against``, or two models with the same name and seed.
        MissingExtra: matplotlib or scipy is not installed.
    """
    results = distinct(found)
    if not results:
        raise DilaError("there are no results to report; evaluate a model first: dila eval")
    rows = compare(results)
    models = list(dict.fromkeys(result.subject.name for result in results))
    against = against or models[0]
    if against not in models:
        raise DilaError(f"--against: there is no result of {against}; choose one of {', '.join(models)}")
    with tempfile.TemporaryDirectory() as folder:
        sections = [_models(results), *_learning(found, Path(folder))]
        for what in dict.fromkeys(row.what for row in rows):
            shown = [row for row in rows if row.what == what]
            pictures = _pictures(found, shown[0].table)
            its = Path(tempfile.mkdtemp(dir=folder))
            sections.append(_section(shown, models, against, its, pictures))
        sections.append(_notes(results))
        subtitle = (
            f"{len(results)} results of {len(models)} model{'s' if len(models) > 1 else ''}: {', '.join(models)}."
        )
        write_page(path, "DiLA: evaluation", subtitle, _tiles(rows, several=len(models) > 1), sections)
    return rows


def _tiles(rows: Sequence[Row], *, several: bool) -> list[Tile]:
    """Best score of each headline, with the name of its model if the page has ``several``."""
    tiles = []
    for what, name, meaning in HEADLINES:
        row = next((row for row in rows if row.table == what and row.score == name), None)
        if row is None:
            continue
        best = (min if row.better == "lower" else max)(row.cells, key=lambda cell: cell.mean)
        whose = f" ({best.model})" if several else ""
        tiles.append(Tile(f"{best.mean:.2f}", meaning + whose))
    return tiles


def _models(results: Sequence[Result]) -> Section:
    told: dict[str, list[Result]] = {}
    for result in results:
        told.setdefault(result.subject.name, []).append(result)
    rows = [
        [
            name,
            f"{members[0].subject.parameters / 1e6:.2f} M",
            members[0].subject.encoder,
            ", ".join(sorted({"-" if m.subject.seed is None else str(m.subject.seed) for m in members})),
            ", ".join(sorted({Path(m.data).name for m in members})),
            ", ".join(sorted({m.pins for m in members})),
        ]
        for name, members in told.items()
    ]
    head = ["model", "parameters", "encoder", "seeds", "data", "pinned clips"]
    return Section("Models", "All scores are of held-out episodes.", [Table(head, rows)])


def _learning(found: Mapping[Path, Sequence[Result]], folder: Path) -> list[Section]:
    """Training curves of the first seed of each model whose log is in the folder of its results."""
    runs: dict[str, Path] = {}
    for file, members in found.items():
        if members and (file.parent / FILE).is_file():
            runs.setdefault(members[0].subject.name, file.parent)
    logs = {name: read_log(run) for name, run in runs.items()}
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for kind, number, title in LEARNING:
        lines = {name: _numbers(records, kind, number) for name, records in logs.items()}
        if lines := {name: points for name, points in lines.items() if points}:
            panels[title] = lines
    if not panels:
        return []
    path = draw_lines(folder / "learning.png", panels, "step")
    text = "From the logs of the runs (log.jsonl in the folder of the results). A collapsed z has a scale of about 0."
    return [Section("Training", text, [Figure(path, "Loss and z of training batches, rollouts of held-out clips.")])]


def _numbers(records: Sequence[Mapping[str, Any]], kind: str, number: str) -> list[tuple[int, float]]:
    told = ((record["step"], record.get(number)) for record in records if record.get("kind") == kind)
    return [(step, float(value)) for step, value in told if isinstance(value, int | float)]


def _section(
    rows: Sequence[Row], models: Sequence[str], against: str, folder: Path, pictures: Mapping[str, Sequence[Figure]]
) -> Section:
    """Section with all rows of one title."""
    shown: list[Table | Figure] = [_table(rows, models)]
    tests = [
        (row, test)
        for row in rows
        for test in row.tests
        if against in (test.first, test.second) and not _says_nothing(row)
    ]
    if tests:
        shown.append(_test_table(tests))
    shown += _curves(rows, folder)
    if len(models) > 1:
        shown += _bars(rows, folder)
    turns = [figure for turn in zip_longest(*pictures.values()) for figure in turn if figure is not None]
    text = ABOUT.get(rows[0].table, "")
    if (left := len(turns) - CLIPS) > 0:
        text += (
            f" {left} of {len(turns)} pictures are omitted here (models alternate); all are in the results' folders."
        )
    return Section(rows[0].what, text, [*shown, *turns[:CLIPS]])


def _table(rows: Sequence[Row], models: Sequence[str]) -> Table:
    head = ["score (↑ higher is better, ↓ lower)", *models]
    lines = []
    for row in rows:
        cells = {cell.model: cell for cell in row.cells}
        told = []
        for model in models:
            cell = cells.get(model)
            told.append("-" if cell is None else _number(cell.mean, cell.low, cell.high))
        lines.append([f"{row.score}{_BETTER[row.better]}", *told])
    return Table(head, lines)


def _test_table(tests: Sequence[tuple[Row, Test]]) -> Table:
    head = ["paired, same clips", "first", "second", "difference", "p sign flips", "p Wilcoxon", "p Holm", "episodes"]
    lines = []
    for row, test in tests:
        difference = _number(test.difference, test.low, test.high)
        chances = ("-" if p is None else f"{p:.3g}" for p in (test.p_permutation, test.p_wilcoxon, test.p_holm))
        lines.append([row.score, test.first, test.second, difference, *chances, str(test.episodes)])
    return Table(head, lines)


def _curves(rows: Sequence[Row], folder: Path) -> list[Figure]:
    """One plot per score that has steps, with all models and baselines."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        if any(len(cell.by_step) > 1 for cell in row.cells):
            families.setdefault(row.score.split("/")[0], []).append(row)
    figures = []
    for family, members in families.items():
        lines = _lines(members)
        curves = {name: cell.by_step for name, cell in lines.items()}
        bands = {name: (cell.low_by_step, cell.high_by_step) for name, cell in lines.items() if cell.low_by_step}
        longest = max(map(len, curves.values()))
        steps = members[0].steps[:longest] or tuple(range(1, longest + 1))
        by_pairs = family.endswith("_by_pairs")
        label = "pairs with a known action" if by_pairs else "frames ahead"
        title = _title(family.removesuffix("_by_pairs"), members[0])
        line = 1.0 if "over_copying" in family else None
        path = draw_curves(
            folder / f"{family}.png", curves, steps, (label, title), bands=bands, log_x=by_pairs, line=line
        )
        told = f"{'; bands, 95% intervals' if bands else ''}{'; dashed, copying' if line else ''}"
        figures.append(Figure(path, f"{title} by {label}{told}."))
    return figures


def _lines(members: Sequence[Row]) -> dict[str, Cell]:
    """Cells with a curve, by name: for one model every side; for several, each model's own sides, and baselines once."""
    several = len({cell.model for row in members for cell in row.cells}) > 1
    lines: dict[str, Cell] = {}
    for row in members:
        side = _side(row)
        shared = _says_nothing(row)
        if several and (side.endswith("_drawn") or side == "decoder"):
            continue
        for cell in row.cells[:1] if several and shared else row.cells:
            own = f"{cell.model}, {side}" if "/" in row.score else cell.model
            name = own if several and not shared else side
            if len(cell.by_step) > 1:
                lines[name] = cell
    return lines


def _bars(rows: Sequence[Row], folder: Path) -> list[Figure]:
    """Bar plots of a table's headline scores over models."""
    wanted = [name for table, name, _ in HEADLINES if table == rows[0].table]
    figures = []
    for row in rows:
        if row.score in wanted:
            bars = {cell.model: {row.score: Point(cell.mean, cell.low, cell.high)} for cell in row.cells}
            line = 1.0 if "over_copying" in row.score else None
            path = draw_bars(
                folder / f"bars_{row.score.replace('/', '_')}.png", bars, _title(row.score, row), line=line
            )
            figures.append(
                Figure(path, f"{_title(row.score, row)}, with 95% intervals over {row.cells[0].interval or 'nothing'}.")
            )
    return figures


def _pictures(found: Mapping[Path, Sequence[Result]], what: str) -> dict[str, list[Figure]]:
    """Pictures of the first seed of each model; a video replaces the contact sheet of the same name."""
    each: dict[str, list[Figure]] = {}
    for file, members in found.items():
        for result in members:
            if result.what == what and result.subject.name not in each:
                paths = {_picture(file, name): caption for name, caption in result.pictures.items()}
                films = {path.with_suffix("") for path in paths if path.suffix != ".png" and path.is_file()}
                each[result.subject.name] = [
                    Figure(path, f"{result.subject.name}: {caption}")
                    for path, caption in paths.items()
                    if path.is_file() and (path.suffix != ".png" or path.with_suffix("") not in films)
                ]
    return each


def _picture(file: Path, name: str) -> Path:
    beside = file.parent / name
    return beside if beside.is_file() else file.parent / "pictures" / name


def _notes(results: Sequence[Result]) -> Section:
    notes: dict[tuple[str, str], dict[str, None]] = {}
    for result in results:
        for note in result.notes:
            notes.setdefault((result.what, note), {})[result.subject.name] = None
    rows = [[what, ", ".join(models), note] for (what, note), models in notes.items()]
    return Section("Omitted", "What could not be measured, and why." if rows else "Nothing.",
                   [Table(["table", "models", "note"], rows)] if rows else [])  # fmt: skip


def _title(score: str, row: Row) -> str:
    """Name of a score in words, with an arrow for the better direction."""
    words = " ".join(_SPELT.get(word, word) for word in score.replace("/", " / ").replace("_", " ").split())
    return words + _BETTER[row.better]


def _side(row: Row) -> str:
    return row.score.partition("/")[2] or row.score


def _says_nothing(row: Row) -> bool:
    """Whether the score is of a baseline or control; scores without a side, such as ``features_drift``, are not."""
    return row.score.partition("/")[2].split("/")[0].removesuffix("_drawn") in NO_MODEL


def _number(value: float, low: float | None, high: float | None) -> str:
    digits = 3 if abs(value) < 100 else 1
    told = f"{value:.{digits}f}"
    return told if low is None or high is None else f"{told}\u00a0[{low:.{digits}f},\u00a0{high:.{digits}f}]"
