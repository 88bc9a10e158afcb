"""Config dataclasses to JSON-ready dictionaries and back, with errors that name the field."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from dila.errors import DilaError

Config = TypeVar("Config")


def to_json(name: str, config: Any) -> dict[str, Any]:
    """``{"name": name, ...fields}`` with tuples as lists, as `from_json` reads it."""
    fields = dataclasses.asdict(config)
    return {"name": name} | {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}


def from_json(cls: type[Config], described: Mapping[str, Any]) -> Config:
    """The config that `to_json` described; lists become tuples, ``name`` is left out.

    Raises:
        DilaError: a field that the config does not have, or one that it needs and is not given.
    """
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in described.items()}
    name = given.pop("name", cls.__name__)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := given.keys() - fields.keys():
        raise DilaError(f"{name} has no field {', '.join(sorted(unknown))}; its fields are {', '.join(fields)}")
    missing = [key for key, field in fields.items() if key not in given and not _has_default(field)]
    if missing:
        raise DilaError(f"{name} needs the field {', '.join(missing)}")
    return cls(**given)


def rows_and_columns(size: int | tuple[int, int]) -> tuple[int, int]:
    """A size as ``(Y, X)``; a single number means square."""
    return (size, size) if isinstance(size, int) else size


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
