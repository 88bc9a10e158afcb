"""Every table and figure by its name, and all of them for one model, skipping what is done."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from dila.configs import to_json
from dila.errors import DilaError
from dila.evaluate.bench import Bench
from dila.evaluate.cycle import measure_cycle
from dila.evaluate.disentangle import measure_disentangle
from dila.evaluate.generation import measure_generation
from dila.evaluate.grids import measure_transfer
from dila.evaluate.manifold import measure_manifold
from dila.evaluate.motion import measure_motion
from dila.evaluate.probing import measure_probe
from dila.evaluate.result import Result, read_results, write_results
from dila.evaluate.sceptic import measure_sceptic

TABLES: dict[str, Callable[[Bench], Result]] = {
    "generation": measure_generation,
    "cycle": measure_cycle,
    "probe": measure_probe,
    "disentangle": measure_disentangle,
    "motion": measure_motion,
    "manifold": measure_manifold,
    "transfer": measure_transfer,
    "sceptic": measure_sceptic,
}


def measure_some(bench: Bench, names: Sequence[str], out: Path, progress: bool = False) -> list[Result]:
    """Measure these tables one after the other into one JSON, which is written after each.

    What is in the file already is kept, if it was made with the same model, clips and settings. A table that a model or
    data set cannot have (a probe without columns, structure of a model that has none) is written without scores and
    with the reason as its note, unless it is the only one.

    Raises:
        DilaError: the only table cannot be had.
    """
    done = {result.what: result for result in _kept(bench, out)}
    bar = tqdm([name for name in names if name not in done], unit="table", disable=not progress)
    for name in bar:
        bar.set_description(name)
        try:
            done[name] = TABLES[name](bench)
        except DilaError as error:
            if len(names) == 1:
                raise
            done[name] = Result(
                name, bench.subject, bench.data, bench.pins.hash, to_json(bench.settings), (), notes=(str(error),)
            )
        write_results(out, list(done.values()))
    return [done[name] for name in names]


def _kept(bench: Bench, out: Path) -> list[Result]:
    """Results of the same model, clips and settings that are in the file."""
    if not out.is_file():
        return []
    settings = to_json(bench.settings)
    return [
        result
        for result in read_results(out)
        if result.subject.weights == bench.subject.weights
        and result.pins == bench.pins.hash
        and result.settings == settings
    ]
