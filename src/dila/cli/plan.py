"""``dila plan``."""

from collections.abc import Sequence
from math import inf
from pathlib import Path

import tyro
from tyro.conf import Positional

from dila.cli.arguments import at_least, open_world, read
from dila.errors import DilaError
from dila.evaluate.planning import Planning

SMALLEST = 8
"""Pixels a side below which a picture shows nothing of a board or a desk."""


def plan(
    model: Positional[Path],
    how: tyro.conf.OmitArgPrefixes[Planning],
    out: Path | None = None,
    device: str = "auto",
) -> None:
    """Reach goal images by model-predictive control, between a random policy and the true simulator.

    Interrupted, the same command goes on.

    Args:
        model: folder of an adapted model, see `dila adapt`.
        how: settings.
        out: folder; outputs/plan/ENVIRONMENT when left out.
        device: auto, cpu, cuda or mps.
    """
    from dila.evaluate.planning import measure_planning
    from dila.interop.actions import load_actions

    _check(how)
    space, _ = load_actions(model)
    out = out or Path("outputs/plan") / how.environment
    _free(out)
    report = measure_planning(open_world(str(model), device), space, how, out)
    print(f"{'':<12}{'success':>10}{'95% interval':>18}{'progress':>10}{'s/episode':>11}")
    for arm, row in report["arms"].items():
        low, high = row["success_interval"]
        interval = f"{low:.2f} to {high:.2f}"
        print(f"{arm:<12}{row['success']:>10.2f}{interval:>18}{row['progress']:>10.2f}{row['seconds']:>11.1f}")
    for measure, value in report["normalised"].items():
        told = "undefined: the simulator is no better than chance" if value is None else f"{value:.2f}"
        print(f"{measure} between random (0) and the true simulator (1): {told}")
    print(f"wrote {out / 'report.json'}, {out / 'curves.png'} and {out / 'videos'}")


def _check(how: Planning) -> None:
    """Refuse what no plan can be made with, before anything is loaded or written."""
    searched = {"samples": how.samples, "iterations": how.iterations}
    counts = {name: count for name, count in searched.items() if count is not None}
    at_least(1, episodes=how.episodes, steps=how.steps, horizon=how.horizon, context=how.context, **counts)
    at_least(0, seed=how.seed)
    at_least(SMALLEST, size=how.size)
    if how.seconds is not None and not 0 < how.seconds < inf:
        raise DilaError(f"--seconds {how.seconds:g} must be a number above 0; leave it out to count iterations")
    if not how.arms:
        raise DilaError("--arms names nothing to run; give some of random, model and simulator")
    if how.planner == "gradient" and "simulator" in how.arms:
        raise DilaError(
            "--planner gradient needs a cost with a gradient, which a simulator does not have; give --arms random model"
        )
    _ = how.search  # a planner knows how many samples it needs


def _free(out: Path) -> None:
    """Forget the settings of a command that was refused or stopped before its first episode ended."""
    episodes = out / "episodes"
    if episodes.is_dir() and not any(episodes.glob("*.json")):
        (out / "plan.json").unlink(missing_ok=True)


def main(arguments: Sequence[str]) -> None:
    """Read the command line and run."""
    read(plan, "plan", arguments)
