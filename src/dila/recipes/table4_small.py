"""Table 4 on two CPU cores, from scratch: recordings, DiLA and two baselines, their adaptations, and the plans.

::

    python -m dila.recipes.table4_small --out outputs/table4      # two hours; needs the extra sim

All models see the same clips of both simulators, are adapted in the same way (by regression only), and plan with the
same cost, in features. DiLA's additional stage in structure space under true actions is a separate column. Differences
from table 4: tiny models, a fraction of its steps, tens of samples instead of hundreds, a handful of episodes instead
of hundreds, features instead of pixels, the simulator's own score as its cost, a deviation of 0.5 for all components.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from dila.data.simulators import record_simulator
from dila.evaluate.planning import Planning
from dila.recipes import compared
from dila.recipes.command import command, plain
from dila.recipes.table4 import TASKS, markdown, run_table4, simulator_of, some_tasks
from dila.train.adapt import MODEL, Adaptation, adapt
from dila.train.loop import train

SIMULATORS = {"robosuite": "robosuite-vp2", "robodesk": "robodesk"}
"""Recording to use for the tasks of each simulator, by the prefix of the task names."""
TAUGHT = "dila, taught in structure space"


@dataclass(frozen=True)
class Settings:
    """Scale of the experiment.

    Args:
        out: folder for ``recordings``, ``features``, a folder per model, and ``plans/table4.json``.
        names: models, named as in `dila compare`.
        recorded: episodes to record from each simulator, of 60 frames.
        steps: optimiser steps per model.
        batch: clips per step.
        layout_steps: steps of the stage in structure space.
        episodes: episodes to plan per task.
        seeds: number of runs of these episodes.
        tasks: tasks of table 4; the models do not depend on this choice.
        device: auto, cpu, cuda or mps.
    """

    out: Path = Path("outputs/table4")
    names: tuple[str, ...] = ("dila", "baseline:lapa", "baseline:adaworld")
    recorded: int = 80
    steps: int = 500
    batch: int = 8
    layout_steps: int = 400
    episodes: int = 4
    seeds: int = 1
    tasks: tuple[str, ...] = TASKS
    device: str = "auto"


def table4_small(episodes: int = 4) -> dict[str, Planning]:
    """Settings of every task.

    Hardware: two CPU cores. Time and score: docs/planning.md.
    """
    plan = Planning("", episodes=episodes, cost="features", samples=32, iterations=1, steps=14, horizon=10)
    return {task: replace(plan, environment=task) for task in TASKS}


def run_table4_small(settings: Settings) -> dict[str, Any]:
    """Record, train, adapt and plan; if interrupted, the same call resumes.

    Raises:
        DilaError: a name or task is unknown, or a folder was made with other settings.
        MissingExtra: a simulator is not installed.
    """
    plans = some_tasks(table4_small(settings.episodes), settings.tasks)
    data = {
        name: record_simulator(source, settings.out / "recordings" / name, settings.recorded)
        for name, source in SIMULATORS.items()
    }
    needed = {name: data[name] for name in dict.fromkeys(map(simulator_of, plans))}
    models = {}
    for name in settings.names:
        checkpoint = _train(settings, name, list(data.values()))
        models[name] = _adapted(settings, name, checkpoint, needed, 0)
        if name == compared.DILA:
            models[TAUGHT] = _adapted(settings, TAUGHT, checkpoint, needed, settings.layout_steps)
    by_task = {name: {task: folders[simulator_of(task)] for task in plans} for name, folders in models.items()}
    return run_table4(by_task, settings.out / "plans", plans, range(1, settings.seeds + 1), settings.device)


def _folder(settings: Settings, name: str) -> Path:
    return settings.out / name.replace(":", "-").replace(", ", "-").replace(" ", "-")


def _train(settings: Settings, name: str, data: Sequence[Path]) -> Path:
    """Train the model of `dila.recipes.compared` with this name on equal shares of both simulators."""
    run = compared.run_of(compared.Settings("", steps=settings.steps, batch=settings.batch), name, 0)
    run = replace(run, weights=(1.0,) * len(data))
    return train(run, data, _folder(settings, name) / "run", cache_dir=settings.out / "features")


def _adapted(
    settings: Settings, name: str, checkpoint: Path, data: dict[str, Path], layout_steps: int
) -> dict[str, Path]:
    """Adapt the model to the actions of each simulator."""
    how = Adaptation(trajectories=settings.recorded, layout_steps=layout_steps, steps=0, batch=settings.batch)
    made = {}
    for simulator, recordings in data.items():
        out = _folder(settings, name) / simulator
        made[simulator] = out / MODEL
        if not made[simulator].is_dir():
            adapt(checkpoint, recordings, out, how, cache_dir=settings.out / "features", device=settings.device)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""

    def run() -> str:
        prog = "python -m dila.recipes.table4_small"
        settings = tyro.cli(Settings, prog=prog, description=plain(__doc__), args=arguments)
        return f"{markdown(run_table4_small(settings))}\nwrote {settings.out / 'plans' / 'table4.json'}"

    return command("table4", run)


if __name__ == "__main__":
    sys.exit(main())
