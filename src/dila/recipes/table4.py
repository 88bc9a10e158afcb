"""The paper's table 4: visual planning by VP2's protocol, on every task, for several models.

::

    python -m dila.recipes.table4 outputs/table4/dila outputs/table4/baseline-lapa --out outputs/table4/vp2

Each folder contains ``robosuite/model`` and ``robodesk/model``, the model adapted to recordings of each simulator, with
a decoder. The name of the folder is that of the model. `dila report` shows the folder of the results.

The planner is VP2's (MPPI, 200 samples, 800 for slide and drawer, one iteration, gamma 0.05, its standard deviation of
each component, 10 actions ahead, 14 plans per episode, from two frames), and so is the cost, the sum of squared pixel
differences at 64 x 64; four seeds. The success on each task is divided by that of the true simulator under the same
planner and cost; the aggregate is the mean of these ratios.

Starts and goals of the tasks are not VP2's but generated (`dila.planning.environments`), unless ``goals`` names a file
of VP2's.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import tyro
from tyro.conf import Positional

from dila.errors import DilaError
from dila.evaluate.bench import subject_of
from dila.evaluate.planning import ARMS, Planning, measure_planning
from dila.files import write_json
from dila.imagine.world import World
from dila.interop.actions import load_actions
from dila.interop.pretrained import load_pretrained
from dila.recipes.command import command, plain
from dila.recipes.results import markdown_table
from dila.train.adapt import MODEL

SEEDS = (1, 2, 3, 4)
APART = 100_000
"""Offset between the episode seeds of consecutive seeds."""
TASKS = (
    "robosuite-vp2", "robodesk-open-slide", "robodesk-open-drawer", "robodesk-push-blue", "robodesk-push-green",
    "robodesk-push-red", "robodesk-upright-block", "robodesk-flat-block",
)  # fmt: skip
MANY = {"robodesk-open-slide": 800, "robodesk-open-drawer": 800}
STD = {"robosuite": (0.5, 0.5, 0.5, 0.0), "robodesk": (0.5, 0.5, 0.5, 0.1, 0.1)}
"""VP2's standard deviation of each action component, by simulator; grippers hardly move, or not at all."""


@dataclass(frozen=True)
class Settings:
    """Scale of the experiment.

    Args:
        models: folder of each model, with ``SIMULATOR/model`` for each simulator of the tasks.
        out: folder for ``table4.json``, and for the plans of each model.
        episodes: episodes to plan per task and seed.
        seeds: number of runs of as many other episodes.
        tasks: tasks of table 4.
        device: auto, cpu, cuda or mps.
    """

    models: Positional[tuple[Path, ...]]
    out: Path = Path("outputs/table4/vp2")
    episodes: int = 100
    seeds: int = len(SEEDS)
    tasks: tuple[str, ...] = TASKS
    device: str = "auto"


def table4(episodes: int = 100) -> dict[str, Planning]:
    """Settings of every task.

    Hardware: one GPU. Time and score: not measured; a plan runs 2,000 frames through model and decoder (200 samples of
    10 frames).
    """
    plan = Planning(
        "", episodes=episodes, planner="vp2", cost="pixels", over="sum", steps=14, horizon=10, context=2, upper="same"
    )
    return {
        task: replace(plan, environment=task, samples=MANY.get(task, 200), std=STD[simulator_of(task)])
        for task in TASKS
    }


def some_tasks(plans: Mapping[str, Planning], tasks: Sequence[str]) -> dict[str, Planning]:
    """Return the settings of these tasks only; raises DilaError if one is unknown."""
    if unknown := set(tasks) - set(plans):
        raise DilaError(f"tasks: there is no {', '.join(sorted(unknown))}; choose from {', '.join(plans)}")
    return {task: plans[task] for task in tasks}


def simulator_of(task: str) -> str:
    """Return the simulator of a task, robosuite or robodesk."""
    return task.partition("-")[0]


def run_table4(
    models: Mapping[str, Mapping[str, str | Path]],
    out: str | Path,
    plans: Mapping[str, Planning] | None = None,
    seeds: Sequence[int] = SEEDS,
    device: str = "auto",
) -> dict[str, Any]:
    """Plan every task with every model; if interrupted, the same call resumes.

    Args:
        models: for each model name, the folder of the model adapted to each task.
        out: folder of ``table4.json`` and ``NAME/TASK/seed_N``. The random policy and the true simulator do not use the
            model, so they are run only with the first one, unless their cost depends on the model.
        plans: settings of each task; None uses `table4`.
        seeds: seeds of the runs.
        device: auto, cpu, cuda or mps.

    Returns:
        Contents of ``table4.json``: mean and standard deviation of success and progress over the seeds for each task,
        and the aggregate of each model.

    Raises:
        DilaError: a model is missing for a task, or as `measure_planning`.
    """
    out, plans = Path(out), dict(plans or table4())
    for name, folders in models.items():
        if missing := plans.keys() - folders.keys():
            raise DilaError(
                f"models: {name} has no model for {', '.join(sorted(missing))}; adapt one to recordings of each task"
            )
    rows = {}
    for task, plan in plans.items():
        alone = plan.upper == "score" or plan.cost == "pixels"
        runs = {}
        for place, (name, folders) in enumerate(models.items()):
            arms = ("model",) if place and alone else ARMS
            runs[name] = _runs(name, folders[task], replace(plan, arms=arms), out / name / task, seeds, device)
        rows[task] = _row(runs)
    table = {"tasks": rows, "aggregate": {name: _aggregate(rows, name) for name in models}}
    write_json(out / "table4.json", table)
    return table


def _runs(
    name: str, model: str | Path, plan: Planning, out: Path, seeds: Sequence[int], device: str
) -> list[dict[str, Any]]:
    space, _ = load_actions(model)
    world = World(*load_pretrained(model, device=device), bf16=True)
    subject = subject_of(model, world, {}, name)
    return [
        measure_planning(world, space, replace(plan, seed=seed * APART), out / f"seed_{seed}", subject=subject)
        for seed in seeds
    ]


def _row(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Scores of both bounds and of each model; normalised is None if planning in the simulator never succeeds."""
    first = next(iter(runs.values()))
    row: dict[str, Any] = {arm: _spread(first, arm) for arm in ("random", "simulator")}
    row["models"] = {name: _spread(each, "model") for name, each in runs.items()}
    best = row["simulator"]["success"]["mean"]
    for told in row["models"].values():
        told["normalised"] = told["success"]["mean"] / best if best else None
    return row


def _spread(runs: Sequence[Mapping[str, Any]], arm: str) -> dict[str, Any]:
    told = {}
    for measure in ("success", "progress"):
        each = [share for run in runs if (share := run["arms"][arm][measure]) is not None]
        told[measure] = {"mean": fmean(each) if each else None, "deviation": stdev(each) if len(each) > 1 else 0.0}
    return told


def _aggregate(rows: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Mean of the normalised success over the tasks that have one."""
    reached = [normalised for row in rows.values() if (normalised := row["models"][name]["normalised"]) is not None]
    return {"mean": fmean(reached) if reached else None, "of_tasks": len(reached)}


def markdown(table: Mapping[str, Any]) -> str:
    """Format ``table4.json`` as a table: success in % / progress, one row per task."""
    names = list(table["aggregate"])
    lines = []
    for task, row in table["tasks"].items():
        told = [row["random"], *row["models"].values(), row["simulator"]]
        lines.append(
            [task, *(f"{100 * its['success']['mean']:.0f} / {_share(its['progress']['mean'])}" for its in told)]
        )
    means = [each["mean"] for each in table["aggregate"].values()]
    shares = ["" if mean is None else f"{100 * mean:.0f}" for mean in means]
    lines.append(["of the simulator's success", "", *shares, "100"])
    return "\n".join(markdown_table(["task", "random", *names, "true simulator"], lines))


def _share(mean: int | float | None) -> str:
    """Progress; it is undefined if every episode starts at its goal."""
    return "-" if mean is None else f"{mean:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""

    def run() -> str:
        settings = tyro.cli(Settings, prog="python -m dila.recipes.table4", description=plain(__doc__), args=arguments)
        if not settings.models:
            raise DilaError("models is empty; give the folder of each model")
        if len({folder.name for folder in settings.models}) < len(settings.models):
            raise DilaError("models: two folders have the same name, which names the model; rename one")
        plans = some_tasks(table4(settings.episodes), settings.tasks)
        models = {
            folder.name: {task: folder / simulator_of(task) / MODEL for task in plans} for folder in settings.models
        }
        table = run_table4(models, settings.out, plans, range(1, settings.seeds + 1), settings.device)
        return f"{markdown(table)}\nwrote {settings.out / 'table4.json'}"

    return command("table4", run)


if __name__ == "__main__":
    sys.exit(main())
