"""``dila data record``."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from dila.errors import DilaError, at_least

GENERATORS = ("pusht", "primitives", "objects3d")
"""Sources besides the simulators of `dila.data.simulators`."""


def record(
    source: Positional[str],
    out: Positional[Path],
    episodes: int = 100,
    frames: int = 60,
    size: int = 128,
    seed: int = 0,
    workers: int = 1,
    policy: Literal["random", "push", "scripted", "mixed"] = "mixed",
    kind: str = "mixed",
    moving_background: bool = False,
    format: Literal["default", "lerobot", "mp4"] = "default",
) -> None:
    """Record a simulator or generator, with its true actions and states.

    If interrupted, the same command resumes. Simulators need the extra `sim` (pusht: the extra `pusht`).

    Args:
        source: a simulator: pusht, fetch, kitchen, pointmaze, robosuite-lift, robosuite-push, robosuite-vp2, robodesk,
            miniworld, or one of your own; or primitives or objects3d: flat shapes or 3D meshes, textured, under known
            transforms.
        out: folder to record into.
        episodes: total number of episodes.
        frames: frames per episode, 10 per second (fetch 25, pointmaze 20, kitchen 6.25, robodesk and robosuite-vp2 5).
        size: pixels a side.
        seed: random seed; the same seed gives the same data.
        workers: number of processes.
        policy: for simulators: random (smooth noise), scripted or push (plans that reach and push), or mixed (in turn).
        kind: for primitives and objects3d: one transform, a composition, or mixed.
        moving_background: for primitives and objects3d: move the background independently of the action.
        format: mp4 (one per episode, with one table; the default of pusht and primitives) or lerobot.
    """
    from dila.data import primitives, pusht
    from dila.data.lerobot_write import LeRobotV3
    from dila.data.recording import VideoFolder, count_episodes
    from dila.data.simulators import SIMULATORS, record_simulator

    at_least(0, seed=seed)
    if source not in (*GENERATORS, *SIMULATORS):
        raise DilaError(f"there is no source {source!r}; choose one of {', '.join((*GENERATORS, *SIMULATORS))}")
    folder = VideoFolder() if format == "mp4" else None
    if source == "pusht":
        store = LeRobotV3(pusht.TASK) if format == "lerobot" else folder
        name = "push" if policy == "scripted" else policy
        pusht.record_pusht(out, episodes, frames, size, seed, name, workers, store=store)
    elif source == "primitives":
        store = LeRobotV3(primitives.TASK) if format == "lerobot" else folder
        primitives.render_primitives(
            out, episodes, frames, size, seed, kind, moving_background, workers=workers, store=store
        )
    elif source == "objects3d":
        from dila.data.objects3d import render_objects3d

        render_objects3d(out, episodes, frames, size, seed, kind, moving_background, workers=workers, store=folder)
    else:
        name = "scripted" if policy == "push" else policy
        record_simulator(source, out, episodes, frames, size, seed, name, workers, store=folder)
    print(f"{out} has {count_episodes(out)} episodes")
