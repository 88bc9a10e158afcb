"""Known factors of every frame, as targets of probes: numbers, angles and classes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from dila.errors import DilaError
from dila.shapes import Bool, Float, Tensor

ANGLES = frozenset({"angle", "theta", "phi", "yaw", "pitch", "roll", "heading"})
"""A component with one of these words in its name, also after a ``d`` (``dangle``), is an angle in radians."""
NO_ANGLES = frozenset(
    {"rate", "dot", "vel", "velocity", "speed", "omega", "acc", "accel", "acceleration", "torque"}
    | {"sin", "sine", "cos", "cosine"}
)
"""Words that exclude this: a rate is not periodic, and a sine is not an angle."""

WIDEST = 8
"""A column with more components than this is treated as one factor."""
SKIPPED = ("action", "held_out")

Kind = Literal["number", "angle", "class"]


@dataclass(frozen=True)
class Factor:
    """One quantity: a column or a component of it."""

    name: str
    column: str
    parts: tuple[int, ...]
    kind: Kind

    def of(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Return values ``B T A`` (numbers, or sine and cosine of an angle), or classes ``B T``."""
        values = columns[self.column][..., list(self.parts)]
        if self.kind == "class":
            return values[..., 0].long()
        if self.kind == "angle":
            return torch.cat([values.double().sin(), values.double().cos()], dim=-1)
        return values.double()

    def change(self, columns: Mapping[str, Tensor]) -> Float[Tensor, "B K A"]:
        """Return the change from frame to frame; angles change the shorter way round."""
        values = columns[self.column][..., list(self.parts)].double()
        step = values[:, 1:] - values[:, :-1]
        return torch.atan2(step.sin(), step.cos()) if self.kind == "angle" else step


def find_factors(
    columns: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], of: str = "", wanted: Sequence[str] = ()
) -> list[Factor]:
    """Return the factors in a batch of columns ``B T A`` (as in clips) whose known values vary.

    Args:
        columns: columns of some clips.
        names: names of their components.
        of: column of which only some components are wanted.
        wanted: these components, by name or number, each a factor; empty means all.

    Raises:
        DilaError: there is no such component.
    """
    return [factor for factor in _factors(columns, names, of, wanted) if _varies(factor.of(columns))]


def tell_unknown(
    columns: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], of: str = "", wanted: Sequence[str] = ()
) -> list[str]:
    """Return a sentence for each factor with unknown (not finite) values. Arguments as in `find_factors`."""
    told = []
    for factor in _factors(columns, names, of, wanted):
        unknown = ~is_known(factor.of(columns).flatten(0, 1))
        if unknown.any():
            count = f"{int(unknown.sum())} of {len(unknown)}" if not unknown.all() else "all"
            told.append(f"{factor.name} is unknown in {count} frames, which its probes exclude")
    return told


def is_known(values: Tensor) -> Bool[Tensor, " N"]:
    """Return which rows have only finite values."""
    return values.reshape(len(values), -1).isfinite().all(1)


def known_rows(y: Float[Tensor, "N A"], factors: Sequence[Factor]) -> Bool[Tensor, " N"]:
    """Return which rows of the targets are known.

    Raises:
        DilaError: no row is known.
    """
    rows = is_known(y)
    if not rows.any():
        names = ", ".join(factor.name for factor in factors)
        raise DilaError(
            f"column {factors[0].column!r} has no known value of {names} in any transition; probe for another column"
        )
    return rows


def _factors(
    columns: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], of: str, wanted: Sequence[str]
) -> list[Factor]:
    found: list[Factor] = []
    for column, values in columns.items():
        if column in SKIPPED or (not values.is_floating_point() and values.shape[-1] > 1):
            continue
        width, chosen = values.shape[-1], wanted if column == of else ()
        if not values.is_floating_point():
            found.append(Factor(column, column, (0,), "class"))
        elif not chosen and (width > WIDEST or "colour" in column):
            found.append(Factor(column, column, tuple(range(width)), "number"))
        else:
            own = components(column, chosen, width, names)
            found += [replace(factor, name=_name(column, factor.name)) for factor in own]
    return found


def components(column: str, wanted: Sequence[str], width: int, names: Mapping[str, tuple[str, ...]]) -> list[Factor]:
    """Return the wanted components of a column (all if empty), each as a factor under its own name.

    Raises:
        DilaError: there is no such component.
    """
    numbers = tuple(map(str, range(width)))
    known = names.get(column, numbers)
    if unknown := [name for name in wanted if name not in known + numbers]:
        raise DilaError(f"column {column!r} has no component {', '.join(unknown)}; it has {', '.join(known)}")
    places = [known.index(name) if name in known else int(name) for name in wanted] or range(width)
    return [Factor(known[i], column, (i,), _kind(known[i])) for i in places]


def _name(column: str, part: str) -> str:
    return part if column == "state" and not part.isdigit() else f"{column} {part}"


def _kind(part: str) -> Kind:
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", part)}
    named = words & ANGLES or {word.removeprefix("d") for word in words} & ANGLES
    return "angle" if named and not words & NO_ANGLES else "number"


def _varies(values: Tensor) -> bool:
    flat = values.double().flatten(0, 1)
    flat = flat[is_known(flat)]
    return bool(len(flat)) and bool((flat.reshape(len(flat), -1).std(0, correction=0) > 1e-9).any())
