"""The quickstart: record Push-T, train the tiny recipe, evaluate it, and write a report."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dila.data import open_corpus, split_episodes
from dila.data.pusht import record_pusht
from dila.evaluate.factors import components
from dila.evaluate.first_look import (
    Probes,
    Rollouts,
    draw_rebinding,
    draw_rollouts,
    draw_structure,
    draw_transfer,
    measure_probe,
    measure_rollouts,
    split_features,
    to_json,
)
from dila.evaluate.page import Figure, Section, Table, Tile, write_page
from dila.files import at_home, write_json
from dila.imagine.world import World
from dila.interop.pretrained import load_pretrained
from dila.recipes.compared import AGENT
from dila.recipes.tiny_pusht import tiny_pusht
from dila.train.loop import train
from dila.train.run import Run
from dila.version import version

EPISODES, FRAMES = 240, 60
Result = TypeVar("Result")


class _Clock:
    """Seconds spent in each part, summed over interrupted calls; stored in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def __call__(self, part: str, work: Callable[[], Result]) -> Result:
        print(f"== {part}", flush=True)
        start = time.monotonic()
        try:
            return work()
        finally:
            self.seconds[part] = round(self.seconds.get(part, 0.0) + time.monotonic() - start, 1)
            if self.path.parent.exists():
                write_json(self.path, self.seconds)


def quickstart(
    out: str | Path = "outputs/quickstart", run: Run | None = None, episodes: int = EPISODES, frames: int = FRAMES
) -> dict[str, Any]:
    """Run the quickstart on a CPU and write ``report.html`` and ``report.json``; if interrupted, the same call resumes.

    Args:
        out: folder of data, features, run and report.
        run: run to train; None uses `tiny_pusht`.
        episodes: number of episodes to record.
        frames: frames per episode, at 10 per second.

    Returns:
        Contents of ``report.json``: ``rollout_error_vs_copy_last``, ``probe_r2``, ``seconds`` and details.

    Raises:
        MissingExtra: gym-pusht is not installed.
        DilaError: ``out`` has data or a run with other settings.
    """
    out, run = at_home(out), run or tiny_pusht()
    clock = _Clock(out / "seconds.json")
    data = clock(
        "recording Push-T", lambda: record_pusht(out / "pusht", episodes, frames, workers=min(2, os.cpu_count() or 1))
    )
    checkpoint = clock("training", lambda: train(run, data, out / "run", cache_dir=out / "features"))
    world = World(*load_pretrained(checkpoint), bf16=run.precision == "bf16")
    rollouts, probes = clock("measuring", lambda: _measure(world, run, data, out / "features"))
    figures = clock("drawing", lambda: _draw(world, run, data, out / "pictures"))
    report = to_json(rollouts, probes) | {
        "seconds": round(sum(clock.seconds.values()), 1),
        "seconds_by_part": clock.seconds,
        "steps": run.steps,
        "episodes": episodes,
        "dila_version": version(),
    }
    write_json(out / "report.json", report)
    _write_report(out / "report.html", report, rollouts, probes, figures)
    return report


def _measure(world: World, run: Run, data: Path, cache_dir: Path) -> tuple[Rollouts, Probes]:
    corpus = open_corpus(data)
    agent = components("state", AGENT, len(corpus.names["state"]), corpus.names)
    train_part, held = split_features(world, corpus, run.clips.held_out, cache_dir)
    target = "true displacement of the agent"
    return measure_rollouts(world, held), measure_probe(world, train_part, held, agent, target)


def _draw(world: World, run: Run, data: Path, out: Path) -> dict[str, Any]:
    _, held = split_episodes(open_corpus(data), run.clips.held_out)
    return {
        "rollouts": draw_rollouts(world, held, out),
        "transfer": draw_transfer(world, held, out),
        "rebinding": draw_rebinding(world, held, out),
        "structure": draw_structure(world, held, out),
    }


def _write_report(
    path: Path, report: dict[str, Any], rollouts: Rollouts, probes: Probes, figures: dict[str, Any]
) -> None:
    tiles = [
        Tile(f"{rollouts.pooled:.2f}", "8-step rollouts: error relative to repeating the first frame"),
        Tile(f"{probes.z.r2:.2f}", f"R² of a linear probe from z to the {probes.target}"),
        Tile(f"{report['seconds'] / 60:.0f} min", f"for {report['episodes']} episodes, {report['steps']} steps"),
    ]
    horizon = Table(
        ["frames ahead", *map(str, range(1, len(rollouts.by_horizon) + 1))],
        [["error relative to repeating", *(f"{x:.2f}" for x in rollouts.by_horizon)]],
    )
    sections = [
        Section(
            "Rollouts",
            f"Held-out episodes, {rollouts.clips} clips. The model sees one frame and the latent actions that it "
            "inferred from the clip, and imagines the rest. One frame ahead, from true frames, its error is "
            f"{rollouts.one_step:.2f} relative to repeating the previous frame.",
            [horizon, *(Figure(p, "True frames above, imagined below.") for p in figures["rollouts"])],
        ),
        Section(
            "What z contains",
            "No action label was seen in training. A ridge regression predicts the agent's displacement from z; it is "
            "fitted on training episodes and scored on held-out ones.",
            [_probe_table(probes)],
        ),
        Section(
            "Action transfer",
            "The latent actions of the clip on the left, rolled out from the first frame of another episode.",
            [Figure(figures["transfer"], "Left: source. Middle: starting frame. Right: imagined.")],
        ),
        Section(
            "Rebinding",
            "Structure from one clip; content memory and first frame from another. Push-T looks the same in all "
            "episodes, so look for the layout: it should follow the clip that gave the structure.",
            [Figure(figures["rebinding"], "Left: structure. Middle: content. Right: both fused.")],
        ),
        Section(
            "Structure",
            "The first three principal components of s, and for comparison of the features, as red, green and blue.",
            [Figure(figures["structure"], "Frames, structure, features.")],
        ),
        Section("Time", "Seconds of each part.", [_time_table(report)]),
    ]
    subtitle = f"Push-T recorded, DiLA trained and measured by `dila quickstart`, version {report['dila_version']}."
    write_page(path, "DiLA: a first look", subtitle, tiles, sections)


def _probe_table(probes: Probes) -> Table:
    named = {
        "latent action z": probes.z,
        "raw feature differences": probes.features,
        "chance: shuffled labels": probes.shuffled,
    }
    rows = []
    for name, told in named.items():
        interval = "-" if (i := told.r2_interval) is None else f"{i.low:.3f} to {i.high:.3f}"
        rows.append([name, _cell(told.r2), interval, *map(_cell, told.r2_by_component)])
    return Table(["linear probe from", "held-out R²", "95% interval", *AGENT], rows)


def _cell(r2: float | None) -> str:
    return "-" if r2 is None else f"{r2:.3f}"


def _time_table(report: dict[str, Any]) -> Table:
    return Table(["part", "seconds"], [[part, f"{s:.0f}"] for part, s in report["seconds_by_part"].items()])
