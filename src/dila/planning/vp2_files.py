"""VP2's own tasks: the starts and goals of its task files (https://github.com/s-tian/vp2).

::

    data/demo_1 ... demo_N
        states             T x 76 for RoboDesk, in this order: positions of the arm's nine joints, their speeds,
                           positions (29) and speeds (26) of the things, place of the hand (3). T x 71 for robosuite:
                           the time, then MuJoCo's positions (37) and speeds (33) of `dila.data.sim_robosuite_vp2`
        start_index        where the episode begins; the first state where there is none
        obs/...            not read: goals are drawn here, by the camera that a model has learned from

An episode is to lead from the state of its start to the last one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dila.data.hdf5 import opened
from dila.errors import DilaError
from dila.planning.environment import Staged

WIDTHS = {76: "RoboDesk", 71: "robosuite"}
"""Numbers of a state, and whose it is."""


class FromTo(NamedTuple):
    """States of VP2 that an episode leads from and to."""

    start: np.ndarray
    goal: np.ndarray


def read_tasks(path: str | Path) -> list[FromTo]:
    """All episodes of a file, in its order.

    Raises:
        DilaError: it is not there, damaged, or none of VP2's.
        MissingExtra: h5py is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise DilaError(f"--goals {path} is not there; give the path of a task file of VP2")
    with opened(path) as file:
        if "data" not in file or not len(file["data"]):
            raise DilaError(f"{path} has no data/demo_1, so it is no task file of VP2; give its goals.hdf5")
        names = sorted(file["data"], key=lambda name: int(name.removeprefix("demo_")))
        return [_episode(path, name, file["data"][name]) for name in names]


def _episode(path: Path, name: str, demo: Any) -> FromTo:
    states = np.asarray(demo["states"], dtype=np.float64)
    start = int(demo["start_index"][()]) if "start_index" in demo else 0
    if states.ndim != 2 or states.shape[1] not in WIDTHS or not np.isfinite(states).all():
        known = " and ".join(f"{owner}'s T x {width}" for width, owner in WIDTHS.items())
        raise DilaError(
            f"{path}: data/{name}/states is {list(states.shape)}, where {known} finite numbers; give a task file of VP2"
        )
    if not -len(states) <= start < len(states):
        raise DilaError(f"{path}: data/{name}/start_index is {start} of {len(states)} states; replace the file")
    return FromTo(states[start], states[-1])


def stager(name: str, body: Any, tasks: Sequence[FromTo]) -> Callable[[int | None], Staged]:
    """From a seed to start and goal: the episode of this number, from the first again after the last.

    Args:
        name: of the environment.
        body: what is to be put there: with ``put``, from a state of VP2, and its ``width`` in numbers.
        tasks: of `read_tasks`.

    Raises:
        DilaError: the body knows no states of VP2, or they are of another simulator.
    """
    if not hasattr(body, "put"):
        raise DilaError(f"goals: VP2 has tasks for robodesk-... and robosuite-vp2, not for {name}; leave the flag out")
    if (width := len(tasks[0].start)) != body.width:
        raise DilaError(f"goals: this file holds states of {WIDTHS[width]}, not of {name}; give the file of its task")

    def stage(seed: int | None) -> Staged:
        task = tasks[(seed or 0) % len(tasks)]
        body.put(task.goal)
        goal = body.snapshot()
        body.put(task.start)
        return Staged(body.snapshot(), goal)

    return stage
