"""Draw again those of docs/pictures that need no run of one's own: python docs/pictures.py [NAME ...]

The names are ``transfer-worlds``, ``disentangle`` and ``sceptic`` (of benchmarks/results) and ``demo`` (screenshots of
its tabs, by the tests in a browser; wants playwright, chromium and the extras demo, analysis and pusht). The others are
drawn by

=============================================  ======================================================================
architecture.svg                               python docs/architecture.py
growth                                         python benchmarks/plot.py, of benchmarks/results/growth.json
results-*-horizon, -scores, -widths            dila compare summary, of benchmarks/results/compare
rollout                                        make quickstart: outputs/quickstart/rollout_*.png
transfer, plan-pusht                           frames of what dila transfer and dila plan make of the quickstart's model
manifold                                       dila eval manifold: docs/results.md
results-fetch-rollouts, -transfer, -manifold   dila eval generation, transfer and manifold of every run on Fetch, their
                                               pictures put together; the runs are not kept
robodesk-goals                                 start and goal of each task of dila.planning.env_robodesk
objects3d-all, pusht and all other recordings  dila data record, then dila data show
=============================================  ======================================================================
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import torch

import dila
from dila.evaluate.disentangle import FLOOR
from dila.evaluate.plots import Point, draw_bars
from dila.imagine.pictures import write_sheet

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "pictures"
MOMENTS = 9
WORLDS = (("pusht_0", "Push-T", "solid_1", "a key"), ("solid_0", "a key", "solid_3", "a globe"))
TABS = ("play", "transfer", "rebind", "freeze", "look", "umap", "plan")
FACTORS = {
    "x": "x", "y": "y", "log_scale": "scale", "angle": "angle", "colour": "colour",
    "background_colour": "background",
}  # fmt: skip
MOVES = {"x": "moved right", "y": "moved down", "log_scale": "grown", "angle": "turned"}
RESULTS = ROOT / "benchmarks" / "results"


def transfer_worlds() -> None:
    """Two clips, and under each another world that does the same."""
    world, rows = dila.load("box", "cpu"), {}
    for source, its_name, target, other in WORLDS:
        o, scene = world.pictures(f"box/{source}", MOMENTS), world.pictures(f"box/{target}", 1)
        moved = world.draw(world.transfer(o, scene).e, scene)
        rows[its_name] = o
        rows[f"{other} under the latent actions of {its_name}: given, then imagined"] = torch.cat([scene, moved])
    write_sheet(OUT / "transfer-worlds.png", rows, MOMENTS)


def disentangle() -> None:
    """What the parts of a frame of 3D objects hold, of the model in the box."""
    results = json.loads((RESULTS / "box" / "objects3d.json").read_text())["results"]
    (scores,) = [result["scores"] for result in results if result["what"] == "disentangle"]
    groups = {
        name: {part: Point(*scores[f"r2/{factor}/{part}"]) for part in ("z", "s", "c", "c_mem", "e")}
        for factor, name in FACTORS.items()
    }
    title = "Probes for factors of a frame (from z: of the next transition)"
    draw_bars(OUT / "disentangle.png", groups, "held-out R²", title, floor=FLOOR)


def sceptic() -> None:
    """What z holds of a transform before a background that moves, of models trained before still and moving ones."""
    told = json.loads((RESULTS / "sceptic.json").read_text())["tables"]["disentangle"]

    def point(factor: str, part: str, trained: str) -> Point:
        score = told[f"r2/change of {factor}/{part}"][trained]
        return Point(score["mean"], *score["interval"])

    groups = {
        name: {
            "z, trained before still backgrounds": point(factor, "z", "trained-on-still"),
            "z, trained before moving ones": point(factor, "z", "trained-on-moving"),
            "change of raw features": point(factor, "de", "trained-on-still"),
        }
        for factor, name in MOVES.items()
    }
    title = "What z holds of the object's transform, before a moving background (5 seeds)"
    draw_bars(OUT / "sceptic.png", groups, "held-out R²", title)


def demo() -> None:
    """What a visitor sees."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "tests/demo/test_app.py"]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"DILA_PICTURES": folder}, check=True)
        for tab in TABS:
            copyfile(Path(folder) / f"demo-{tab}.png", OUT / f"demo-{tab}.png")


DRAWN = {"transfer-worlds": transfer_worlds, "disentangle": disentangle, "sceptic": sceptic, "demo": demo}

if __name__ == "__main__":
    for name in sys.argv[1:] or DRAWN:
        DRAWN[name]()
        print(f"drew {name}")
