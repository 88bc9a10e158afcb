"""Convert nested config dataclasses to JSON and back, with errors that name the field.

If a field accepts several dataclasses (``objective: OneStep | Rollout``), its JSON names the class under the key
``kind``.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from dila.errors import DilaError

Config = TypeVar("Config")

KIND = "kind"
"""JSON key of the class name, for fields that accept several dataclasses."""


def to_json(config: Any) -> Any:
    """Return a dataclass as a JSON-ready dict; tuples become lists, nested dataclasses dicts."""
    return _described(config, None)


def from_json(cls: type[Config], described: Any, where: str = "") -> Config:
    """Build a config from the output of `to_json`.

    Raises:
        DilaError: a field is unknown, missing or of the wrong type; it is named with its path.
    """
    where = where or cls.__name__
    if not isinstance(described, Mapping):
        raise DilaError(f"{where} should be an object with the fields of {cls.__name__}, not {described!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := described.keys() - fields.keys():
        raise DilaError(f"{where} has no field {', '.join(sorted(unknown))}; its fields are {', '.join(fields)}")
    if missing := [name for name, field in fields.items() if name not in described and _is_required(field)]:
        raise DilaError(f"{where} needs the field {', '.join(missing)}")
    kinds = typing.get_type_hints(cls)
    return cls(**{name: _value(kinds[name], value, f"{where}.{name}") for name, value in described.items()})


def completed(stored: Any, like: Any) -> Any:
    """Fill in the defaults of fields that were added to the config after `stored` was written by `to_json`."""
    if isinstance(stored, list) and isinstance(like, list | tuple) and len(stored) == len(like):
        return [completed(part, its) for part, its in zip(stored, like, strict=True)]
    name = type(like).__name__
    if not isinstance(stored, dict) or not dataclasses.is_dataclass(like) or stored.get(KIND, name) != name:
        return stored
    kinds = typing.get_type_hints(type(like))
    later = [field for field in dataclasses.fields(like) if field.name not in stored and not _is_required(field)]
    return {
        **{key: completed(part, getattr(like, key, None)) for key, part in stored.items()},
        **{field.name: _described(_default(field), kinds[field.name]) for field in later},
    }


def _described(value: Any, kind: Any) -> Any:
    """Convert ``value`` to JSON; ``kind`` is the declared type of its field."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kinds = typing.get_type_hints(type(value))
        fields = {f.name: _described(getattr(value, f.name), kinds[f.name]) for f in dataclasses.fields(value)}
        return {KIND: type(value).__name__} | fields if _choices(kind) else fields
    if isinstance(value, list | tuple):
        kinds = typing.get_args(kind) if typing.get_origin(kind) in (tuple, list) else ()
        repeated = not kinds or kinds[-1] is Ellipsis or len(kinds) != len(value)
        each = [kinds[0] if kinds else None] * len(value) if repeated else kinds
        return [_described(part, its_kind) for part, its_kind in zip(value, each, strict=True)]
    if isinstance(value, dict):
        return {key: _described(part, None) for key, part in value.items()}
    return value


def _choices(kind: Any) -> dict[str, type]:
    """The dataclasses that a field accepts, by name; empty if there are fewer than two."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return {}
    classes = [part for part in typing.get_args(kind) if isinstance(part, type) and dataclasses.is_dataclass(part)]
    return {part.__name__: part for part in classes} if len(classes) > 1 else {}


def _chosen(choices: Mapping[str, type], described: Mapping[str, Any], where: str) -> Any:
    name = str(described.get(KIND))
    if name not in choices:
        raise DilaError(f"{where}.{KIND} should be one of {', '.join(choices)}, not {name!r}")
    return from_json(choices[name], {key: value for key, value in described.items() if key != KIND}, where)


def _value(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if isinstance(value, Mapping) and (choices := _choices(kind)):
        return _chosen(choices, value, where)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(typing.get_args(kind), value, where)
    if dataclasses.is_dataclass(kind):
        return from_json(typing.cast(type, kind), value, where)
    if origin is tuple:
        return _tuple(typing.get_args(kind), value, where)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise DilaError(f"{where} should be one of {', '.join(map(repr, typing.get_args(kind)))}, not {value!r}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or kind
    wrong = isinstance(plain, type) and not isinstance(value, plain)
    if wrong or (kind is int and isinstance(value, bool)):
        raise DilaError(f"{where} should be of type {getattr(kind, '__name__', kind)}, not {value!r}")
    return value


def _first_that_fits(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    reasons = []
    for kind in kinds:
        try:
            return _value(kind, value, where)
        except DilaError as error:
            reasons.append(str(error))
    raise DilaError(reasons[0])


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise DilaError(f"{where} should be a list, not {value!r}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise DilaError(f"{where} should have {len(kinds)} entries, not {len(value)}")
    return tuple(_value(kind, part, f"{where}[{i}]") for i, (kind, part) in enumerate(zip(kinds, value, strict=True)))


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
