"""Checks of the ranges of numeric settings, with errors that name the field."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from dila.errors import DilaError


class Range(NamedTuple):
    """A range of numbers; NaN is always outside.

    Args:
        holds: whether a number is inside.
        told: description for error messages.
    """

    holds: Callable[[float], bool]
    told: str


AT_LEAST_0 = Range(lambda x: x >= 0, "at least 0")
AT_LEAST_1 = Range(lambda x: x >= 1, "at least 1")
AT_LEAST_2 = Range(lambda x: x >= 2, "at least 2")
ABOVE_0 = Range(lambda x: x > 0, "above 0")
BELOW_1 = Range(lambda x: 0 <= x < 1, "at least 0 and below 1")
SHARE = Range(lambda x: 0 <= x <= 1, "from 0 to 1")


def check_ranges(config: Any, where: str, **ranges: Range) -> None:
    """Check fields of a config; each number of a tuple must be in range, and None is always accepted.

    Args:
        config: object with the fields.
        where: prefix of the field names in messages.
        ranges: range of each field.

    Raises:
        DilaError: a field is out of range; it is named.
    """
    for name, allowed in ranges.items():
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(number is None or allowed.holds(number) for number in numbers):
            raise DilaError(f"{where}{name} = {value} must be {allowed.told}")


def check_sizes(config: Any, where: str) -> None:
    """Check that a model's config and nested configs have sizes of at least 1, depths of at least 0, dropout in [0, 1).

    Raises:
        DilaError: a field is out of range; it is named.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            check_sizes(value, f"{where}{field.name}.")
        elif (allowed := _range_of(field.name, value)) is not None:
            check_ranges(config, where, **{field.name: allowed})


def check_weighed(weights: Any, *terms: str | None) -> None:
    """Check that each term of a loss has a weight of the same name; None is ignored.

    Raises:
        DilaError: a term has no weight; it is named.
    """
    for term in terms:
        if term is not None and not hasattr(weights, term):
            raise DilaError(
                f"the loss has a term {term!r}, for which {type(weights).__name__} has no weight; give the objective "
                "weights of a subclass with a field of this name"
            )


def _range_of(name: str, value: Any) -> Range | None:
    if name == "dropout":
        return BELOW_1
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(type(number) is int for number in numbers):  # excludes bool
        return None
    return AT_LEAST_0 if name.endswith(("depth", "blocks")) else AT_LEAST_1
