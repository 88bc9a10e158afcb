"""Actions that may be planned: those that the environment takes, and of them those that the model has seen.

An environment says of its actions what it can: ``limits`` (`Limits`), ``repeats`` (raw steps that one is held for),
``names`` of the components, and ``relative``, the components of the recordings' state that they are relative to.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch

from dila.errors import DilaError
from dila.interop.actions import ActionSpace
from dila.planning.planner import Limits


def taken(name: str, actions: ActionSpace, environment: Any) -> Limits:
    """Limits of an environment; of the data where it says none.

    Args:
        name: of the environment.
        actions: of the model.
        environment: see the module.

    Raises:
        DilaError: its actions are others than those that the model was adapted to.
    """
    limits: Limits = getattr(environment, "limits", None) or Limits(*actions.limits())
    dim, repeats = len(limits.low), getattr(environment, "repeats", actions.repeats)
    if (len(actions.names), actions.repeats) != (dim, repeats):
        raise DilaError(
            f"the model was adapted to actions of {len(actions.names)} numbers, {actions.repeats} to a transition, but "
            f"{name} takes {dim}, {repeats} to a transition; adapt it to recordings of {name}"
        )
    relative = getattr(environment, "relative", None)
    if relative is not None and _others(actions.relative, relative):
        mend = " ".join(["with --relative", *relative]) if relative else "without --relative"
        raise DilaError(
            f"the model was adapted to actions relative to {_told(actions.relative)}, but those of {name} are relative "
            f"to {_told(relative)}; adapt it {mend}"
        )
    names = getattr(environment, "names", None)
    if names is not None and _others(actions.names, names):
        raise DilaError(
            f"the model was adapted to the actions {_told(actions.names)}, but those of {name} are {_told(names)}; "
            f"adapt it to recordings of {name}, whose actions have these names"
        )
    return limits


def seen(name: str, actions: ActionSpace, limits: Limits) -> Limits:
    """What the environment takes and the model has seen as well.

    Raises:
        DilaError: there is no such action.
    """
    least, greatest = actions.limits()
    low, high = torch.maximum(limits.low, least), torch.minimum(limits.high, greatest)
    if (low > high).any():
        raise DilaError(
            f"the model has seen actions from {least.tolist()} to {greatest.tolist()}, but {name} takes those from "
            f"{limits.low.tolist()} to {limits.high.tolist()}; adapt it to recordings of {name}"
        )
    return Limits(low, high)


def _others(known: Sequence[str], own: Sequence[str]) -> bool:
    """Whether components are others; names that only number them, as those of some data sets do, say nothing of it."""
    numbered = all(re.fullmatch(r"[a-z]*_?\d+", name) for name in known)
    return tuple(known) != tuple(own) and not (len(known) == len(own) and numbered)


def _told(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
