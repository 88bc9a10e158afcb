"""What is known of every frame, as factors to be probed for: numbers, angles, and classes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from dila.errors import DilaError
from dila.shapes import Bool, Float, Tensor

ANGLES = frozenset({"angle", "theta", "phi", "yaw", "pitch", "roll", "heading"})
"""A component with one of these words in its name, or a change of one (``dangle``), is an angle in radians."""
NO_ANGLES = frozenset(
    {"rate", "dot", "vel", "velocity", "speed", "omega", "acc", "accel", "acceleration", "torque"}
    | {"sin", "sine", "cos", "cosine"}
)
"""Unless it has one of these as well: a rate goes further than once round, a sine is none."""

WIDEST = 8
"""A column of more components than this is one factor as a whole."""
SKIPPED = ("action", "held_out")

Kind = Literal["number", "angle", "class"]


@dataclass(frozen=True)
class Factor:
    """One quantity: a column, or a component of one."""

    name: str
    column: str
    parts: tuple[int, ...]
    kind: Kind

    def of(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Values ``B T A``: numbers, the sine and cosine of an angle, or a class ``B T``."""
        values = columns[self.column][..., list(self.parts)]
        if self.kind == "class":
            return values[..., 0].long()
        if self.kind == "angle":
            return torch.cat([values.double().sin(), values.double().cos()], dim=-1)
        return values.double()

    def change(self, columns: Mapping[str, Tensor]) -> Float[Tensor, "B K A"]:
        """Change from frame to frame, of an angle the shorter way round."""
        values = columns[self.column][..., list(self.parts)].double()
        step = values[:, 1:] - values[:, :-1]
        return torch.atan2(step.sin(), step.cos()) if self.kind == "angle" else step


def find_factors(
    columns: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], of: str = "", wanted: Sequence[str] = ()
) -> list[Factor]:
    """The factors in a batch of columns ``B T A`` (as clips have them), those left out that never vary where known.

    Args:
        columns: of some clips.
        names: of their components.
        of: a column of which some components are wanted.
        wanted: those, by name or number, each a factor; none when all are.

    Raises:
        DilaError: no such component.
    """
    return [factor for factor in _factors(columns, names, of, wanted) if _varies(factor.of(columns))]


def tell_unknown(
    columns: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], of: str = "", wanted: Sequence[str] = ()
) -> list[str]:
    """A sentence for each factor with frames whose value is not finite, so not known. Arguments as `find_factors`."""
    told = []
    for factor in _factors(columns, names, of, wanted):
        unknown = ~is_known(factor.of(columns).flatten(0, 1))
        if unknown.any():
            count = f"{int(unknown.sum())} of {len(unknown)}" if not unknown.all() else "all"
            told.append(f"{factor.name} is not known in {count} frames, which are left out of its probes")
    return told


def is_known(values: Tensor) -> Bool[Tensor, " N"]:
    """Which rows of values are finite throughout."""
    return values.reshape(len(values), -1).isfinite().all(1)


def known_rows(y: Float[Tensor, "N A"], factors: Sequence[Factor]) -> Bool[Tensor, " N"]:
    """Which rows of what is probed for are known.

    Raises:
        DilaError: none is.
    """
    rows = is_known(y)
    if not rows.any():
        names = ", ".join(factor.name for factor in factors)
        raise DilaError(f"{names} of column {factors[0].column!r} is not known of any transition; probe for another")
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
    """The wanted components of a column, all when there are none, each a factor under its own name.

    Raises:
        DilaError: no such component.
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
