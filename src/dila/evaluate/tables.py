"""All tables and figures by name, and their evaluation for one model, which skips existing results."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from dila.configs import to_json
from dila.errors import DilaError
from dila.evaluate.bench import Bench, Settings
from dila.evaluate.cycle import measure_cycle
from dila.evaluate.disentangle import measure_disentangle
from dila.evaluate.generation import measure_generation
from dila.evaluate.grids import measure_transfer
from dila.evaluate.manifold import measure_manifold
from dila.evaluate.motion import measure_motion
from dila.evaluate.probing import measure_probe
from dila.evaluate.result import Result, read_results, write_results
from dila.evaluate.sceptic import measure_sceptic
from dila.files import alone
from dila.plugins import load_plugins


def _of_clip(row: str) -> str:
    return row.rpartition("@")[0] or row


def _of_source(row: str) -> str:
    return _of_clip(row.partition(" in scene ")[0])


class Table(NamedTuple):
    """How a table is measured, and what it depends on besides the model and the pinned clips."""

    measure: Callable[[Bench], Result]
    reads: tuple[str, ...]
    """Names of the `Settings` that its scores depend on."""
    draws: bool = False
    """Whether it uses the decoder, for scores or for `Settings.pictures`."""
    splits: bool = False
    """Whether it reads episodes that are not pinned, to fit probes or for evaluation."""
    owner: Callable[[str], str] = _of_clip
    """Maps a row to its episode; for transfer, that of the source."""
    version: int = 1
    """Increased when its code gives different numbers, so that older results are recomputed."""


PROBED = ("column", "components", "pairs", "seed")
TABLES: dict[str, Table] = {
    "generation": Table(measure_generation, ("context", "i3d"), draws=True),
    "cycle": Table(measure_cycle, (), draws=True, version=2),
    "probe": Table(measure_probe, (*PROBED, "change"), splits=True, owner=str, version=2),
    "disentangle": Table(measure_disentangle, PROBED, splits=True),
    "motion": Table(measure_motion, PROBED, draws=True, splits=True, version=2),
    "manifold": Table(measure_manifold, (*PROBED, "change"), splits=True),
    "transfer": Table(measure_transfer, ("clips", "pictures", "source"), draws=True, splits=True, owner=_of_source),
    "sceptic": Table(measure_sceptic, ("clips", "pairs", "seed", "still"), splits=True),
}


def settings_of(result: Result) -> dict[str, Any]:
    """Return the settings that a result's scores depend on; all if its table is not in `TABLES`."""
    table = TABLES.get(result.what)
    if table is None:
        return result.settings
    every = to_json(Settings()) | result.settings
    return {name: every[name] for name in table.reads}


def owners_of(result: Result) -> list[str]:
    """Return the episode of each row; if the table is not in `TABLES`, the part of the row before its last @."""
    table = TABLES.get(result.what)
    return [(table.owner if table else _of_clip)(row) for row in result.rows]


def hashes_of(result: Result) -> tuple[str, ...]:
    """Return hashes of the model, and of the decoder and the episodes if the table of a result uses them."""
    table = TABLES.get(result.what)
    decoder = result.subject.decoder if table and table.draws else ""
    return result.subject.weights, decoder, result.split if table and table.splits else ""


def measure_some(bench: Bench, names: Sequence[str], out: Path, progress: bool = False) -> list[Result]:
    """Measure tables one after the other into one JSON file, which is written after each.

    The file contains the latest result of each table, for one model on one set of pinned clips. Existing results are
    kept if the version of their table and everything that it reads are unchanged; the model's name and seed in them are
    updated. A table that cannot be measured (a probe without columns, or structure of a model that has none) is written
    without scores, with the reason as its note, unless it is the only one.

    Raises:
        DilaError: the file contains results of another model or on other clips, or the only table cannot be measured.
    """
    load_plugins()
    done = _keep(bench, out)
    todo = [name for name in names if name not in done or not _is_done(bench, done[name])]
    bar = tqdm(todo, unit="table", disable=not progress)
    for name in bar:
        bar.set_description(name)
        began = time.monotonic()
        try:
            result = replace(TABLES[name].measure(bench), version=TABLES[name].version)
        except DilaError as error:
            if len(names) == 1:
                raise
            result = bench.finish(name, began, (), rows=(), notes=(str(error),))
        done = _keep(bench, out, result)
    return [done[name] for name in names]


def _keep(bench: Bench, out: Path, *made: Result) -> dict[str, Result]:
    """Merge new results into the file and return all; other processes may be writing other tables of the model."""
    with alone(out, wait=True):
        done = {result.what: result for result in (*_kept(bench, out), *made)}
        if done:
            write_results(out, list(done.values()))
    return done


def _kept(bench: Bench, out: Path) -> list[Result]:
    """Read the results of the file, with the model's current name, seed and path."""
    results = read_results(out) if out.is_file() else []
    mine = bench.subject
    for result in results:
        if result.subject.weights != mine.weights:
            raise DilaError(
                f"{out} contains results of {result.subject.name}, whose weights differ from those of {mine.path}; "
                "give another --out"
            )
        if result.pins != bench.pins.hash:
            raise DilaError(
                f"{out} contains results on other clips; give another --out, or the --pins of those results"
            )
    named = {"name": mine.name, "seed": mine.seed, "path": mine.path}
    return [replace(result, subject=replace(result.subject, **named)) for result in results]


def _is_done(bench: Bench, result: Result) -> bool:
    """Whether a result has scores, and its table's version and everything that it reads are unchanged."""
    new = bench.finish(result.what, time.monotonic(), ())
    pictures = not TABLES[result.what].draws or result.settings.get("pictures") == new.settings["pictures"]
    told = [(settings_of(each), hashes_of(each)) for each in (result, new)]
    same = result.version == TABLES[result.what].version and told[0] == told[1]
    return bool(result.scores) and pictures and same
