"""Draw again those of docs/pictures that the model in the box can draw: python docs/pictures.py [NAME ...]

The names are ``transfer-worlds`` and ``demo`` (screenshots of its tabs, by the tests in a browser; wants playwright,
chromium and the extras demo and pusht). The others are drawn by

=============================================  ======================================================================
architecture.svg                               python docs/architecture.py
growth                                         python benchmarks/plot.py, of benchmarks/results/growth.json
results-*-horizon, -scores, -widths            dila compare summary, of benchmarks/results/compare
rollout                                        make quickstart: outputs/quickstart/rollout_*.png
transfer, plan-pusht                           frames of what dila transfer and dila plan make of the quickstart's model
disentangle, manifold, sceptic                 dila eval of that name: docs/evaluation.md and docs/results.md
results-fetch-rollouts, -transfer, -manifold   dila eval generation, transfer and manifold of every run on Fetch, their
                                               pictures put together; the runs are not kept
robodesk-goals                                 start and goal of each task of dila.planning.env_robodesk
objects3d-all, pusht and all other recordings  dila data record, then dila data show
=============================================  ======================================================================
"""

import os
import subprocess
import sys
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import torch

import dila
from dila.imagine.pictures import write_sheet

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "pictures"
MOMENTS = 9
WORLDS = (("pusht_0", "Push-T", "solid_1", "a key"), ("solid_0", "a key", "solid_3", "a globe"))
TABS = ("play", "transfer", "look", "plan")


def transfer_worlds() -> None:
    """Two clips, and under each another world that does the same."""
    world, rows = dila.load("box", "cpu"), {}
    for source, its_name, target, other in WORLDS:
        o, scene = world.pictures(f"box/{source}", MOMENTS), world.pictures(f"box/{target}", 1)
        moved = world.draw(world.transfer(o, scene).e, scene)
        rows[its_name] = o
        rows[f"{other} under the latent actions of {its_name}: given, then imagined"] = torch.cat([scene, moved])
    write_sheet(OUT / "transfer-worlds.png", rows, MOMENTS)


def demo() -> None:
    """What a visitor sees."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "tests/demo/test_app.py"]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"DILA_PICTURES": folder}, check=True)
        for tab in TABS:
            copyfile(Path(folder) / f"demo-{tab}.png", OUT / f"demo-{tab}.png")


DRAWN = {"transfer-worlds": transfer_worlds, "demo": demo}

if __name__ == "__main__":
    for name in sys.argv[1:] or DRAWN:
        DRAWN[name]()
        print(f"drew {name}")
