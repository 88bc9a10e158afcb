"""The paper's table 3: linear probes from z to true actions, on data that no model was trained on.

::

    dila data record kitchen recordings/kitchen --episodes 60
    dila data record fetch recordings/fetch --episodes 60
    python -m dila.recipes.table3 --runs runs/compare/pusht --data recordings/kitchen recordings/fetch

The runs are those of `dila.recipes.compare`, over several seeds. Each is probed on each data set as by `dila eval
probe`, with the linear probe only: it is fitted on 800 transitions of the training episodes and scored on held-out
episodes. Data that a run was trained on keep the run's split. Two controls are the same probe on z of an untrained
DiLA, and on raw differences of features, which need no learning. Actions that are positions, like those of Push-T,
need ``--column state --change --components agent_x agent_y``.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import tyro
from tqdm import tqdm

from dila.analysis.intervals import seed_interval
from dila.configs import to_json
from dila.errors import DilaError
from dila.evaluate.bench import Settings as Probed
from dila.evaluate.bench import open_bench
from dila.evaluate.probing import gather_sides, inputs_of, joined, score_probe, untrained_like, wanted_components
from dila.evaluate.result import Result, Score, read_results, write_results
from dila.evaluate.seeds import Claim, by_seed, judge, pair_seeds
from dila.files import write_json
from dila.recipes.command import command, plain
from dila.recipes.compared import DILA, GROUPS
from dila.recipes.results import markdown_table, slug

R2, MSE = "r2/z/ridge", "mse/z/ridge"
CONTROLS = {"untrained": "z of an untrained DiLA", "features": "raw feature differences"}
CLAIMS = tuple(
    Claim(f"true actions are predicted better from z than from {what}", "table 3", R2, DILA, name)
    for what, name in (("a discrete z", "ablation:discrete"), ("a Gaussian z", "ablation:gaussian"))
)


@dataclass(frozen=True)
class Settings:
    """What to probe.

    Args:
        runs: folder of a comparison.
        data: corpora to probe on.
        out: folder to write ``table3.json`` to, and a JSON per run under each data set's name.
        names: models, as in the comparison; if empty, all that have a z.
        seeds: number of seeds per model, from 0.
        column: column of true values to predict from z.
        components: components of the column, by name or number; if empty, all.
        change: predict the change of the column from frame to frame.
        pairs: number of transitions that the probe is fitted on.
        cache_dir: folder of encoded features; None uses the user's cache folder.
        device: auto, cpu, cuda or mps.
    """

    runs: Path
    data: tuple[str, ...]
    out: Path = Path("outputs/table3")
    names: tuple[str, ...] = ()
    seeds: int = 5
    column: str = "action"
    components: tuple[str, ...] = ()
    change: bool = False
    pairs: int = 800
    cache_dir: Path | None = None
    device: str = "auto"


def run_table3(settings: Settings) -> dict[str, Any]:
    """Probe every run on every data set; if interrupted, the same call resumes.

    Returns:
        Contents of ``table3.json``: for each data set R² and mean squared error of each model by seed, its mean and 95%
        interval over seeds, the controls, the paired tests against DiLA, and verdicts on the paper's claims.

    Raises:
        DilaError: the runs do not exist, two data sets have the same name, the data has no actions, or a run was
            trained on held-out episodes.
    """
    runs, data = _runs(settings), {Path(each).name: each for each in settings.data}
    if len(data) < len(settings.data):
        raise DilaError("data: two data sets have the same name; rename one of their folders")
    jobs = [(name, run) for name in data for run in runs]
    results: dict[str, list[Result]] = {name: [] for name in data}
    for name, run in tqdm(jobs, "probing", disable=None):
        results[name].append(_probed(settings, data[name], run, settings.out / name / f"{run.name}.json"))
    table: dict[str, Any] = {"runs": settings.runs.name, "column": settings.column, "pairs": settings.pairs}
    table["data"] = {name: _section(its) for name, its in results.items()}
    write_json(settings.out / "table3.json", table)
    return table


def _runs(settings: Settings) -> list[Path]:
    """Folders of the runs, grouped by model, those of the paper's table first."""
    without_z = set(GROUPS["figure5"]) - {DILA}
    wanted = settings.names or [name for name in GROUPS["all"] if name not in without_z]
    folders = [settings.runs / slug(name, seed) for name in wanted for seed in range(settings.seeds)]
    found = [folder for folder in folders if (folder / "checkpoints").is_dir()]
    if not any(folder.name.startswith(f"{DILA}-seed") for folder in found):
        raise DilaError(
            f"runs: {settings.runs} has no run of {DILA}; train some with: dila compare --out {settings.runs}"
        )
    return found


def _probed(settings: Settings, data: str, run: Path, out: Path) -> Result:
    """Run only the linear probe of `dila.evaluate.probing` on a run, and for DiLA also the controls."""
    probed = Probed(
        column=settings.column, components=settings.components, change=settings.change, pairs=settings.pairs
    )
    if out.is_file():
        done = read_results(out)[0]
        if (done.subject.path, done.data, done.settings) != (str(run), data, to_json(probed)):
            raise DilaError(f"{out} belongs to another run, or was made with other settings; choose another out")
        return done
    began = time.monotonic()
    bench = open_bench(run, data, out.parent, probed, device=settings.device, cache_dir=settings.cache_dir)
    controlled = bench.subject.name == DILA
    untrained = untrained_like(bench.world.model, bench.settings.seed) if controlled else None
    factors, inputs = wanted_components(bench), inputs_of(bench.world, untrained)
    both = joined(*gather_sides(bench, factors, inputs, settings.pairs))
    scores: list[Score] = []
    for name in ("z", *CONTROLS) if controlled else ("z",):
        scores += score_probe(f"{name}/ridge", both.ask(name, seed=bench.settings.seed))
    result = bench.finish("probe", began, scores, rows=())
    write_results(out, [result])
    return result


def _section(results: Sequence[Result]) -> dict[str, Any]:
    models = {name: _model(results, name) for name in dict.fromkeys(each.subject.name for each in results)}
    controls = {name: _values(results, f"r2/{name}/ridge", DILA) for name in CONTROLS}
    tests = [test for test in pair_seeds(results, DILA) if test.score in (R2, MSE)]
    verdicts = {claim.other: told[1] for claim in CLAIMS if (told := judge(claim, tests))}
    return {
        "models": models,
        "controls": {name: fmean(its) if its else None for name, its in controls.items()},
        "tests": [asdict(test) for test in tests],
        "claims": verdicts,
    }


def _model(results: Sequence[Result], name: str) -> dict[str, Any]:
    told = {}
    for short, score in (("r2", R2), ("mse", MSE)):
        values = _values(results, score, name)
        interval = seed_interval(values)
        told[short] = {"mean": fmean(values), "interval": interval and list(interval), "seeds": values}
    return told


def _values(results: Sequence[Result], score: str, model: str) -> list[float]:
    return list(by_seed(results, score).get(model, {}).values())


def markdown(table: Mapping[str, Any]) -> str:
    """Format ``table3.json`` as tables: R² of each model on each data set, and the paper's claims."""
    sections = table["data"]
    names = list(dict.fromkeys(name for section in sections.values() for name in section["models"]))
    scores = []
    for data, section in sections.items():
        cells = [_cell(section["models"][name]["r2"]) if name in section["models"] else "" for name in names]
        cells += ["" if (value := section["controls"][name]) is None else f"{value:.3f}" for name in CONTROLS]
        scores.append([data, *cells])
    claims = [[c.text, *(section["claims"].get(c.other, "") for section in sections.values())] for c in CLAIMS]
    heads = ["R² ↑", *names, *CONTROLS.values()], ["the paper's claim", *sections]
    return "\n".join([*markdown_table(heads[0], scores), "", *markdown_table(heads[1], claims)])


def _cell(told: Mapping[str, Any]) -> str:
    interval = told["interval"]
    return f"{told['mean']:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""

    def run() -> str:
        settings = tyro.cli(Settings, prog="python -m dila.recipes.table3", description=plain(__doc__), args=arguments)
        return f"{markdown(run_table3(settings))}\nwrote {settings.out / 'table3.json'}"

    return command("table3", run)


if __name__ == "__main__":
    sys.exit(main())
