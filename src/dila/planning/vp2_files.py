"""VP2's own tasks: starts and goals from its task files (https://github.com/s-tian/vp2).

::

    data/demo_1 ... demo_N
        states             T x 76 for RoboDesk, in this order: positions of the arm's nine joints, their velocities,
                           positions (29) and velocities (26) of the objects, position of the hand (3). T x 71 for
                           robosuite: time, then MuJoCo's positions (37) and velocities (33) of
                           `dila.data.sim_robosuite_vp2`
        start_index        index of the start; 0 if missing
        obs/...            not read: goal pictures are rendered here, with the camera of the model's training data

The goal of an episode is the last state.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from dila.data.hdf5 import opened, own
from dila.data.reading import check_length
from dila.errors import DilaError
from dila.planning.environment import Staged

WIDTHS = {76: "RoboDesk", 71: "robosuite"}
"""Simulator by length of a state."""


class FromTo(NamedTuple):
    """Start and goal of an episode, as states of VP2."""

    start: np.ndarray
    goal: np.ndarray


def read_tasks(path: str | Path) -> list[FromTo]:
    """Read all episodes of a task file, in the order of their numbers.

    Raises:
        DilaError: the file is missing, damaged, or not a task file of VP2.
        MissingExtra: h5py is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise DilaError(f"--goals: {path} does not exist; give the path of a task file of VP2")
    with opened(path) as file:
        if "data" not in file or not len(file["data"]):
            raise DilaError(f"{path} has no data/demo_1, so it is not a task file of VP2; give VP2's goals.hdf5")
        names = sorted(file["data"].keys(), key=lambda name: int(name.removeprefix("demo_")))
        return [_episode(path, file, f"data/{name}") for name in names]


def _episode(path: Path, file: Any, inside: str) -> FromTo:
    """Read the start and the last state of an episode, not those between them."""
    states = own(path, file, f"{inside}/states")
    if states.ndim != 2 or states.shape[1] not in WIDTHS or states.dtype.kind not in "iuf":
        _refuse(path, inside, states)
    count = check_length(f"{path}: {inside}/states", len(states))
    start = _start(path, file, f"{inside}/start_index") if "start_index" in file[inside] else 0
    if not -count <= start < count:
        raise DilaError(f"{path}: {inside}/start_index is {start}, but there are {count} states; replace the file")
    made = FromTo(*(states[row].astype(np.float64) for row in (start % count, count - 1)))
    if not np.isfinite(made).all():
        _refuse(path, inside, states)
    return made


def _start(path: Path, file: Any, place: str) -> int:
    stored = own(path, file, place)
    if stored.size != 1 or stored.dtype.kind not in "iu":
        raise DilaError(f"{path}: {place} must be one integer; replace the file")
    return int(np.asarray(stored).item())


def _refuse(path: Path, inside: str, states: Any) -> NoReturn:
    known = " and ".join(f"{owner}'s T x {width}" for width, owner in WIDTHS.items())
    raise DilaError(
        f"{path}: {inside}/states must be {known} finite numbers, but its shape is {list(states.shape)}; give a task "
        "file of VP2"
    )


def stager(name: str, body: Any, tasks: Sequence[FromTo]) -> Callable[[int | None], Staged]:
    """Return a function from a seed to start and goal: those of the episode with this number, modulo their count.

    Args:
        name: name of the environment.
        body: simulator with a method ``put``, which sets a state of VP2, and ``width``, the length of such states.
        tasks: episodes from `read_tasks`.

    Raises:
        DilaError: VP2 has no tasks for the body, or the tasks are of another simulator.
    """
    if not hasattr(body, "put"):
        raise DilaError(f"--goals: VP2 has tasks for robodesk-... and robosuite-vp2, not for {name}; omit the flag")
    if (width := len(tasks[0].start)) != body.width:
        raise DilaError(
            f"--goals: the file contains states of {WIDTHS[width]}, not of {name}; give the file of its task"
        )

    def stage(seed: int | None) -> Staged:
        task = tasks[(seed or 0) % len(tasks)]
        body.put(task.goal)
        goal = body.snapshot()
        body.put(task.start)
        return Staged(body.snapshot(), goal)

    return stage
