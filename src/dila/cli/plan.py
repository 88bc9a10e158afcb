"""``dila plan``."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from tyro.conf import Positional

from dila.cli.arguments import Device, open_world
from dila.evaluate.planned import MEASURES
from dila.evaluate.planning import Planning


def plan(
    model: Positional[Path],
    how: tyro.conf.OmitArgPrefixes[Planning],
    out: Path | None = None,
    name: str | None = None,
    run_seed: int | None = None,
    device: Device = "auto",
) -> None:
    """Reach goal images by model-predictive control, with random actions and the true simulator as bounds.

    If interrupted, the same command resumes.

    Args:
        model: folder or Hub id of an adapted model, see `dila adapt`.
        how: settings of planning.
        out: folder to write; default outputs/plan/ENVIRONMENT.
        name: name of the model in comparisons, shared by its seeds; default: its path.
        run_seed: seed of the model's run in comparisons.
    """
    from dila.evaluate.bench import subject_of
    from dila.evaluate.planning import measure_planning
    from dila.interop.actions import load_actions

    space, _ = load_actions(model)
    if ":" in how.environment:
        sys.path.insert(0, os.getcwd())  # as python -m does, for modules in the current folder
    out = out or Path("outputs/plan") / how.environment.replace(":", ".")
    world = open_world(str(model), device)
    subject = subject_of(model, world, {}, name or str(model), run_seed)
    report = measure_planning(world, space, how, out, subject=subject)
    measures = "".join(f"{measure:>10}{'95% interval':>16}" for measure in MEASURES)
    print(f"{'':<12}{measures}{'s/episode':>11}{'s/plan':>8}")
    for arm, row in report["arms"].items():
        told = "".join(f"{_number(row[of]):>10}{_between(row[f'{of}_interval']):>16}" for of in MEASURES)
        print(f"{arm:<12}{told}{row['seconds']:>11.1f}{row['plan_seconds']:>8.2f}")
    for measure, value in report["normalised"].items():
        told = "undefined: the simulator is no better than chance"
        if value is not None:
            told = f"{value:.2f}, 95% interval {_between(report['normalised_interval'][measure])}"
        print(f"{measure} between random (0) and the true simulator (1): {told}")
    made = [str(out / name) for name in ("report.json", "curves.png", "costs.png", "videos") if (out / name).exists()]
    print(f"wrote {', '.join(made)}")


def _number(value: int | float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _between(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else "{:.2f} to {:.2f}".format(*interval)
