"""One self-contained page from any results: tables over models, paired tests, curves, pictures and clips."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from dila.errors import DilaError
from dila.evaluate.compare import Row, Test, compare, distinct
from dila.evaluate.page import Figure, Section, Table, Tile, write_page
from dila.evaluate.plots import Point, draw_bars, draw_curves
from dila.evaluate.result import Result

ABOUT = {
    "generation": "Frames imagined from the context under the clip's own latent actions (table 1).",
    "cycle": "Latent actions taken to another scene, read again there and brought back (table 2).",
    "probe": "True actions read off latent ones, on held-out episodes, beside their controls (table 3).",
    "disentangle": "What structure, content, memory and latent action hold of the known factors (figure 5).",
    "motion": "Structure of one clip with the content of another, and structure held still (figure 4).",
    "manifold": "The set of latent actions against the true parameters of the transforms (figure 6).",
    "transfer": "The actions of one clip in the scenes of others (figures 3 and 8).",
    "sceptic": "A background that moves independently of the action: what z and s hold of either.",
}
HEADLINES = (
    ("generation", "feature_error_over_copying", "rollout error in features, over repeating the last frame"),
    ("generation", "ssim/imagined", "SSIM of imagined frames"),
    ("cycle", "cycle_over_copying", "error of the cycle transfer, over repeating the first frame"),
    ("probe", "r2/z/ridge", "R² of a linear probe from z"),
    ("sceptic", "selectivity/z", "R² for the action minus that for the background's motion"),
)
NO_MODEL = ("copying", "decoder", "shuffled", "untrained", "features")
"""Sides that say nothing of a model: not tested on the page."""
CLIPS = 12
"""Pictures and clips of a table, at most, over all models."""


def write_report(path: Path, found: Mapping[Path, Sequence[Result]], against: str | None = None) -> list[Row]:
    """Write the page, whole or not at all, and return the comparison that it shows.

    Args:
        path: of the page.
        found: results by the file that they are in.
        against: the model that the others are tested against on the page; the first when None. The comparison returned
            holds the tests of all pairs.

    Raises:
        DilaError: there are no results, none of the model ``against``, or two models of one name and seed.
        MissingExtra: matplotlib or scipy is not installed.
    """
    results = distinct(found)
    if not results:
        raise DilaError("there are no results to report; make some with: dila eval")
    rows = compare(results)
    models = list(dict.fromkeys(result.subject.name for result in results))
    against = against or models[0]
    if against not in models:
        raise DilaError(f"--against: there is no result of {against}; there are some of {', '.join(models)}")
    with tempfile.TemporaryDirectory() as folder:
        sections = [_models(results)]
        for what in dict.fromkeys(row.what for row in rows):
            shown = [row for row in rows if row.what == what]
            pictures = _pictures(found, shown[0].table) if len(models) <= 8 else []
            its = Path(tempfile.mkdtemp(dir=folder))
            sections.append(_section(shown, models, against, its, pictures))
        sections.append(_notes(results))
        subtitle = (
            f"{len(results)} results of {len(models)} model{'s' if len(models) > 1 else ''}: {', '.join(models)}."
        )
        write_page(path, "DiLA: evaluation", subtitle, _tiles(rows, several=len(models) > 1), sections)
    return rows


def _tiles(rows: Sequence[Row], *, several: bool) -> list[Tile]:
    """The best model of each headline, by its name where the page has ``several``."""
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
            ", ".join(sorted({str(m.subject.seed) for m in members})),
            ", ".join(sorted({Path(m.data).name for m in members})),
            ", ".join(sorted({m.pins for m in members})),
        ]
        for name, members in told.items()
    ]
    head = ["model", "parameters", "encoder", "seeds", "data", "pinned clips"]
    return Section("Models", "Everything is on held-out episodes.", [Table(head, rows)])


def _section(
    rows: Sequence[Row], models: Sequence[str], against: str, folder: Path, pictures: Sequence[Figure]
) -> Section:
    """All rows of one title."""
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
    return Section(rows[0].what, ABOUT.get(rows[0].table, ""), [*shown, *pictures])


def _table(rows: Sequence[Row], models: Sequence[str]) -> Table:
    head = ["score (↑ higher is better, ↓ lower)", *models]
    mark = {"higher": "↑", "lower": "↓", "neither": ""}
    lines = []
    for row in rows:
        cells = {cell.model: cell for cell in row.cells}
        told = []
        for model in models:
            cell = cells.get(model)
            told.append("-" if cell is None else _number(cell.mean, cell.low, cell.high))
        lines.append([f"{row.score} {mark[row.better]}", *told])
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
    """One plot a score that has steps: of every model, and of what stands beside it."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        if any(len(cell.by_step) > 1 for cell in row.cells):
            families.setdefault(row.score.split("/")[0], []).append(row)
    figures = []
    for family, members in families.items():
        curves = _lines(members)
        longest = max(map(len, curves.values()))
        steps = members[0].steps[:longest] or tuple(range(1, longest + 1))
        by_pairs = family == "r2_by_pairs"
        label = "pairs with a known action" if by_pairs else "frames ahead"
        path = draw_curves(folder / f"{family}.png", curves, steps, (label, family), log_x=by_pairs)
        figures.append(Figure(path, f"{family} by {label}."))
    return figures


def _lines(members: Sequence[Row]) -> dict[str, Sequence[float]]:
    """Of one model every side; of several each one's own sides, and those that say nothing of a model once."""
    several = len({cell.model for row in members for cell in row.cells}) > 1
    lines: dict[str, Sequence[float]] = {}
    for row in members:
        side = _side(row)
        shared = _says_nothing(row)
        if several and (side.endswith("_drawn") or side == "decoder"):
            continue
        for cell in row.cells[:1] if several and shared else row.cells:
            name = side if shared or not several else f"{cell.model}, {side}"
            if len(cell.by_step) > 1:
                lines[name] = cell.by_step
    return lines


def _bars(rows: Sequence[Row], folder: Path) -> list[Figure]:
    """The headline of a table as bars over models."""
    wanted = [name for table, name, _ in HEADLINES if table == rows[0].table]
    figures = []
    for row in rows:
        if row.score in wanted:
            bars = {cell.model: {row.score: Point(cell.mean, cell.low, cell.high)} for cell in row.cells}
            line = 1.0 if "over_copying" in row.score else None
            path = draw_bars(folder / f"bars_{row.score.replace('/', '_')}.png", bars, row.score, line=line)
            figures.append(Figure(path, f"{row.score}, with 95% intervals over {row.cells[0].interval or 'nothing'}."))
    return figures


def _pictures(found: Mapping[Path, Sequence[Result]], what: str) -> list[Figure]:
    """Pictures and clips of the first seed of each model, clips before the sheets of the same moments."""
    figures: list[Figure] = []
    seen: set[str] = set()
    for file, members in found.items():
        for result in members:
            if result.what != what or result.subject.name in seen:
                continue
            seen.add(result.subject.name)
            for name, caption in result.pictures.items():
                path = file.parent / "pictures" / name if not (file.parent / name).is_file() else file.parent / name
                if path.is_file() and len(figures) < CLIPS:
                    figures.append(Figure(path, f"{result.subject.name}: {caption}"))
    return figures


def _notes(results: Sequence[Result]) -> Section:
    notes = dict.fromkeys(f"{r.what}, {r.subject.name}: {note}" for r in results for note in r.notes)
    rows = [[note] for note in notes]
    return Section("Left out", "What could not be measured, and why." if rows else "Nothing.",
                   [Table(["note"], rows)] if rows else [])  # fmt: skip


def _side(row: Row) -> str:
    return row.score.partition("/")[2] or row.score


def _says_nothing(row: Row) -> bool:
    """Whether its side says nothing of a model; a score without sides, such as ``features_drift``, always does."""
    return row.score.partition("/")[2].split("/")[0].removesuffix("_drawn") in NO_MODEL


def _number(value: float, low: float | None, high: float | None) -> str:
    digits = 3 if abs(value) < 100 else 1
    told = f"{value:.{digits}f}"
    return told if low is None or high is None else f"{told}\u00a0[{low:.{digits}f},\u00a0{high:.{digits}f}]"
