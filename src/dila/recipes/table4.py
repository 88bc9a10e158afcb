"""The paper's table 4: visual planning by VP2's protocol, on every task, for several models.

VP2's planner exactly (MPPI, 200 samples, 800 for slide and drawer, one iteration, gamma 0.05, 10 actions ahead, 14
plans an episode, from two frames) on its sum of squared pixels at 64 x 64, four seeds; each task's success is divided
by that of the true simulator under the same planner and cost, and the mean of those is the aggregate.

Not VP2's: the tasks' starts and goals, which are made here (`dila.planning.environments`), and robosuite's scene.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from dila.configs import write_json
from dila.errors import DilaError
from dila.evaluate.planning import Planning, measure_planning
from dila.imagine.world import World
from dila.interop.actions import load_actions
from dila.interop.pretrained import load_pretrained

SEEDS = (1, 2, 3, 4)
APART = 100_000
"""Between the episodes of one seed and the next."""
TASKS = (
    "robosuite-push", "robodesk-open-slide", "robodesk-open-drawer", "robodesk-push-blue", "robodesk-push-green",
    "robodesk-push-red", "robodesk-upright-block", "robodesk-flat-block",
)  # fmt: skip
MANY = {"robodesk-open-slide": 800, "robodesk-open-drawer": 800}


def table4(episodes: int = 100) -> dict[str, Planning]:
    """The settings of every task.

    Hardware: one GPU. Time and score: not measured; with 200 samples of 10 frames, all decoded, a plan is
    2,000 frames through model and decoder.
    """
    plan = Planning(
        "", episodes=episodes, planner="vp2", cost="pixels", over="sum", steps=14, horizon=10, context=2, upper="same"
    )
    return {task: replace(plan, environment=task, samples=MANY.get(task, 200)) for task in TASKS}


def run_table4(
    models: Mapping[str, str | Path],
    out: str | Path,
    plans: Mapping[str, Planning] | None = None,
    seeds: Sequence[int] = SEEDS,
    device: str = "auto",
) -> dict[str, Any]:
    """Run a column of the table; interrupted, it goes on.

    Args:
        models: of each task the folder of the model adapted to it.
        out: folder; ``table4.json`` and a folder a task and seed.
        plans: settings of each task; `table4` when None.
        seeds: runs.
        device: auto, cpu, cuda or mps.

    Returns:
        What ``table4.json`` holds: success of each task over the seeds, mean and deviation, and the aggregate.

    Raises:
        DilaError: a task that there is no model for, or as `measure_planning`.
    """
    out, plans = Path(out), dict(plans or table4())
    if missing := plans.keys() - models.keys():
        raise DilaError(f"models has none for {', '.join(sorted(missing))}; adapt one to recordings of each task")
    rows = {}
    for task, plan in plans.items():
        space, _ = load_actions(models[task])
        world = World(*load_pretrained(models[task], device=device), bf16=True)
        runs = [
            measure_planning(world, space, replace(plan, seed=seed * APART), out / task / f"seed_{seed}")
            for seed in seeds
        ]
        rows[task] = _row(runs)
    reached = [row["normalised"] for row in rows.values() if row["normalised"] is not None]
    table = {"tasks": rows, "aggregate": fmean(reached) if reached else None, "of_tasks": len(reached)}
    write_json(out / "table4.json", table)
    return table


def _row(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Success of the arms over the runs; a task that the simulator never solves cannot be normalised by it."""
    success = {arm: [run["arms"][arm]["success"] for run in runs] for arm in runs[0]["arms"]}
    row: dict[str, Any] = {
        arm: {"mean": fmean(each), "deviation": stdev(each) if len(each) > 1 else 0.0} for arm, each in success.items()
    }
    best = row["simulator"]["mean"]
    return row | {"normalised": row["model"]["mean"] / best if best else None}
