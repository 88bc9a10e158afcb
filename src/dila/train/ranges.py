"""What numbers of a setting may be, by the name of its field, and the one sentence about a number that is outside."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from dila.errors import DilaError


class Range(NamedTuple):
    """Some numbers; NaN is never among them.

    Args:
        holds: whether a number is inside.
        told: which these are.
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
    """Refuse a field that is outside; of several numbers each must be inside, and None always is.

    Args:
        config: what has the fields.
        where: said before the name of a field.
        ranges: of each field.

    Raises:
        DilaError: naming it.
    """
    for name, allowed in ranges.items():
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(number is None or allowed.holds(number) for number in numbers):
            raise DilaError(f"{where}{name} = {value} must be {allowed.told}")


def check_sizes(config: Any, where: str) -> None:
    """Refuse a model's config, or one inside it, with a size below 1, layers below 0 or a dropout outside [0, 1).

    Raises:
        DilaError: naming it.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            check_sizes(value, f"{where}{field.name}.")
        elif (allowed := _range_of(field.name, value)) is not None:
            check_ranges(config, where, **{field.name: allowed})


def check_weighed(weights: Any, *terms: str | None) -> None:
    """Refuse terms of a loss that have no weight of their name; None is no term.

    Raises:
        DilaError: naming it.
    """
    for term in terms:
        if term is not None and not hasattr(weights, term):
            raise DilaError(
                f"the loss has a term {term!r}, of which {type(weights).__name__} has no weight; give the objective "
                "weights of a subclass that has such a field"
            )


def _range_of(name: str, value: Any) -> Range | None:
    if name == "dropout":
        return BELOW_1
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(type(number) is int for number in numbers):  # a bool is an int as well
        return None
    return AT_LEAST_0 if name.endswith(("depth", "blocks")) else AT_LEAST_1
