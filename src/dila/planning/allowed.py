"""Limits of planned actions: the range of the environment, and the part of it that the model has seen.

An environment may describe its actions: ``limits`` (`Limits`), ``repeats`` (raw steps that an action is held for),
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
    """Return the action limits of an environment; those of the data if it has none.

    Args:
        name: name of the environment.
        actions: action space that the model was adapted to.
        environment: environment with the optional attributes above.

    Raises:
        DilaError: its actions differ from those that the model was adapted to.
    """
    limits: Limits = getattr(environment, "limits", None) or Limits(*actions.limits())
    dim, repeats = len(limits.low), getattr(environment, "repeats", actions.repeats)
    if (len(actions.names), actions.repeats) != (dim, repeats):
        raise DilaError(
            f"the model was adapted to actions of {len(actions.names)} components, {actions.repeats} per transition, "
            f"but {name} takes {dim} components, {repeats} per transition; adapt it to recordings of {name}"
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
    """Return the limits of the environment intersected with the range of actions that the model has seen.

    Raises:
        DilaError: the intersection is empty.
    """
    least, greatest = actions.limits()
    low, high = torch.maximum(limits.low, least), torch.minimum(limits.high, greatest)
    if (low > high).any():
        raise DilaError(
            f"the model has seen actions from {least.tolist()} to {greatest.tolist()}, but {name} takes actions from "
            f"{limits.low.tolist()} to {limits.high.tolist()}; adapt it to recordings of {name}"
        )
    return Limits(low, high)


def _others(known: Sequence[str], own: Sequence[str]) -> bool:
    """Whether components differ. Names that only number them, as in some data sets, match any names of equal count."""
    numbered = all(re.fullmatch(r"[a-z]*_?\d+", name) for name in known)
    return tuple(known) != tuple(own) and not (len(known) == len(own) and numbered)


def _told(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
