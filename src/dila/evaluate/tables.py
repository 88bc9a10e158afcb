"""Every table and figure by its name, and all of them for one model, skipping what is done."""

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
    """How a table is made, and what it depends on besides the model and the pinned clips."""

    measure: Callable[[Bench], Result]
    reads: tuple[str, ...]
    """Settings that its scores depend on."""
    draws: bool = False
    """Whether the decoder draws for it, as many pictures as the settings say."""
    splits: bool = False
    """Whether it reads episodes that are not pinned, to fit probes or to be judged."""
    owner: Callable[[str], str] = _of_clip
    """The episode of a row; of a transfer, that of its source."""
    version: int = 1
    """Raised where its code comes to give other numbers, so that older results are made again."""


PROBED = ("column", "components", "pairs", "seed")
TABLES: dict[str, Table] = {
    "generation": Table(measure_generation, ("context", "i3d"), draws=True),
    "cycle": Table(measure_cycle, (), draws=True),
    "probe": Table(measure_probe, (*PROBED, "change"), splits=True, owner=str),
    "disentangle": Table(measure_disentangle, PROBED, splits=True),
    "motion": Table(measure_motion, PROBED, draws=True, splits=True),
    "manifold": Table(measure_manifold, (*PROBED, "change"), splits=True),
    "transfer": Table(measure_transfer, ("clips", "pictures", "source"), draws=True, splits=True, owner=_of_source),
    "sceptic": Table(measure_sceptic, ("clips", "pairs", "seed", "still"), splits=True),
}


def settings_of(result: Result) -> dict[str, Any]:
    """The settings that a result's scores depend on; all, where it is of no table of `TABLES`."""
    table = TABLES.get(result.what)
    if table is None:
        return result.settings
    every = to_json(Settings()) | result.settings
    return {name: every[name] for name in table.reads}


def owners_of(result: Result) -> list[str]:
    """The episode of each row; what a row of no table of `TABLES` has before its last @, if it has one."""
    table = TABLES.get(result.what)
    return [(table.owner if table else _of_clip)(row) for row in result.rows]


def hashes_of(result: Result) -> tuple[str, ...]:
    """Hashes of what a result was made with: the model, and the decoder and the episodes where its table reads them."""
    table = TABLES.get(result.what)
    decoder = result.subject.decoder if table and table.draws else ""
    return result.subject.weights, decoder, result.split if table and table.splits else ""


def measure_some(bench: Bench, names: Sequence[str], out: Path, progress: bool = False) -> list[Result]:
    """Measure these tables one after the other into one JSON, which is written after each.

    The file holds the latest result of each table, of one model on one set of pinned clips. What is there already is
    not made again if the same version of its table made it with what that reads, and goes by the model's present name
    and seed. A table that a model or data set cannot have (a probe without columns, structure of a model that has none)
    is written without scores and with the reason as its note, unless it is the only one.

    Raises:
        DilaError: the file holds results of another model or on other clips, or the only table cannot be had.
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
    """Write what is in the file now, and what was made; another process may be writing other tables of the model."""
    with alone(out, wait=True):
        done = {result.what: result for result in (*_kept(bench, out), *made)}
        if done:
            write_results(out, list(done.values()))
    return done


def _kept(bench: Bench, out: Path) -> list[Result]:
    """What is in the file, under the model's present name."""
    results = read_results(out) if out.is_file() else []
    mine = bench.subject
    for result in results:
        if result.subject.weights != mine.weights:
            raise DilaError(
                f"{out} holds results of {result.subject.name}, a model of other weights than {mine.path}; "
                "give another --out"
            )
        if result.pins != bench.pins.hash:
            raise DilaError(f"{out} holds results on other clips; give another --out, or the --pins of those")
    named = {"name": mine.name, "seed": mine.seed, "path": mine.path}
    return [replace(result, subject=replace(result.subject, **named)) for result in results]


def _is_done(bench: Bench, result: Result) -> bool:
    """Whether a result has scores, by the table's present code, and all that it reads is as the bench has it."""
    new = bench.finish(result.what, time.monotonic(), ())
    pictures = not TABLES[result.what].draws or result.settings.get("pictures") == new.settings["pictures"]
    told = [(settings_of(each), hashes_of(each)) for each in (result, new)]
    same = result.version == TABLES[result.what].version and told[0] == told[1]
    return bool(result.scores) and pictures and same
