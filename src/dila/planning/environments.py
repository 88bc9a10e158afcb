"""Environments by name, built for a model's stride; your own by ``module:function``."""

from collections.abc import Sequence

from dila.errors import DilaError
from dila.planning.environment import Body, Environment, GoalEnvironment
from dila.planning.vp2_files import FromTo, stager
from dila.plugins import load_plugins, named

ENVIRONMENTS: dict[str, tuple[str, str]] = {
    "pusht-push": ("dila.planning.env_pusht:PushTBody", "dila.planning.env_pusht:PUSH"),
    "pusht-reach": ("dila.planning.env_pusht:PushTBody", "dila.planning.env_pusht:REACH"),
    "pointmaze": ("dila.planning.env_simulators:MazeBody", "dila.planning.env_simulators:MAZE_REACH"),
    "fetch-push": ("dila.planning.env_simulators:FetchBody", "dila.planning.env_simulators:FETCH_PUSH"),
    "robosuite-push": ("dila.planning.env_simulators:RobosuiteBody", "dila.planning.env_simulators:CUBES_PUSH"),
    "robosuite-vp2": ("dila.planning.env_simulators:ThingsBody", "dila.planning.env_simulators:THINGS_PUSH"),
    "robodesk-open-slide": ("dila.planning.env_robodesk:DeskBody", "dila.planning.env_robodesk:OPEN_SLIDE"),
    "robodesk-open-drawer": ("dila.planning.env_robodesk:DeskBody", "dila.planning.env_robodesk:OPEN_DRAWER"),
    "robodesk-push-red": ("dila.planning.env_robodesk:DeskBody", "dila.planning.env_robodesk:PUSH_RED"),
    "robodesk-push-green": ("dila.planning.env_robodesk:DeskBody", "dila.planning.env_robodesk:PUSH_GREEN"),
    "robodesk-push-blue": ("dila.planning.env_robodesk:DeskBody", "dila.planning.env_robodesk:PUSH_BLUE"),
    "robodesk-upright-block": ("dila.planning.env_robodesk:DeskBody", "dila.planning.env_robodesk:UPRIGHT_OFF"),
    "robodesk-flat-block": ("dila.planning.env_robodesk:DeskBody", "dila.planning.env_robodesk:FLAT_OFF"),
}
"""Body and task of each environment, as ``module:name``; imported when used."""


def make_environment(name: str, stride: float, size: int = 128, tasks: Sequence[FromTo] | None = None) -> Environment:
    """Build an environment whose actions are held for one stride of the model.

    Args:
        name: one of `ENVIRONMENTS`, or ``module:function`` of your own, which is called with stride and size.
        stride: seconds between two frames of the model.
        size: size of pictures in pixels.
        tasks: VP2's starts and goals, by seed (`dila.planning.vp2_files`); None uses the task's script.

    Raises:
        MissingExtra: the simulator is not installed.
        DilaError: the name is unknown, the stride is not a multiple of the simulator's step, the tasks are of another
            simulator, or your function returns no `Environment`.
    """
    if ":" in name:
        if tasks is not None:
            raise DilaError(f"--goals: VP2 has tasks for robodesk-... and robosuite-vp2, not for {name}; omit the flag")
        return _own(name, stride, size)
    load_plugins()
    if name not in ENVIRONMENTS:
        raise DilaError(
            f"there is no environment {name!r}; choose one of {', '.join(ENVIRONMENTS)}, or give MODULE:FUNCTION"
        )
    body, task = (named(address) for address in ENVIRONMENTS[name])
    made: Body = body()
    given = stager(name, made, tasks) if tasks is not None else None
    return GoalEnvironment(made, task, held_steps(name, made, stride), size, given)


def _own(address: str, stride: float, size: int) -> Environment:
    try:
        make = named(address)
    except (ImportError, AttributeError, ValueError) as error:
        raise DilaError(
            f"{address} cannot be imported ({error}); give MODULE:FUNCTION of a module in this folder or installed"
        ) from error
    made = make(stride, size)
    if not isinstance(made, Environment):
        raise DilaError(
            f"{address} returned an object of type {type(made).__name__}, which lacks reset or step; see 'Your own "
            "environment' in docs/planning.md"
        )
    return made


def held_steps(name: str, body: Body, stride: float) -> int:
    """Number of raw steps per stride.

    Raises:
        DilaError: it is not a whole number.
    """
    repeats = stride * body.fps
    if round(repeats) < 1 or abs(repeats - round(repeats)) > 0.01:
        raise DilaError(
            f"the model's stride of {stride:g} s is not a multiple of a step of {name}, which has {body.fps:g} steps "
            "per second; plan with a model of another stride"
        )
    return round(repeats)
