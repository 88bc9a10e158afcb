"""``dila plan``."""

import os
import sys
from pathlib import Path

import tyro
from tyro.conf import Positional

from dila.cli.arguments import Device, open_world
from dila.evaluate.planning import Planning


def plan(
    model: Positional[Path],
    how: tyro.conf.OmitArgPrefixes[Planning],
    out: Path | None = None,
    device: Device = "auto",
) -> None:
    """Reach goal images by model-predictive control, with random actions and the true simulator as bounds.

    If interrupted, the same command resumes.

    Args:
        model: folder or Hub id of an adapted model, see `dila adapt`.
        how: settings of planning.
        out: folder to write; default outputs/plan/ENVIRONMENT.
    """
    from dila.evaluate.planning import measure_planning
    from dila.interop.actions import load_actions

    space, _ = load_actions(model)
    if ":" in how.environment:
        sys.path.insert(0, os.getcwd())  # as python -m does, for modules in the current folder
    out = out or Path("outputs/plan") / how.environment.replace(":", ".")
    report = measure_planning(open_world(str(model), device), space, how, out)
    print(f"{'':<12}{'success':>10}{'95% interval':>18}{'progress':>10}{'s/episode':>11}{'s/plan':>8}")
    for arm, row in report["arms"].items():
        low, high = row["success_interval"]
        interval = f"{low:.2f} to {high:.2f}"
        print(
            f"{arm:<12}{row['success']:>10.2f}{interval:>18}{row['progress']:>10.2f}{row['seconds']:>11.1f}"
            f"{row['plan_seconds']:>8.2f}"
        )
    for measure, value in report["normalised"].items():
        told = "undefined: the simulator is no better than chance" if value is None else f"{value:.2f}"
        print(f"{measure} between random (0) and the true simulator (1): {told}")
    print(f"wrote {out / 'report.json'}, {out / 'curves.png'} and {out / 'videos'}")
