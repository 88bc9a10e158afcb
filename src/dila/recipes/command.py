"""Helpers for recipes that run as programs, ``python -m dila.recipes.NAME``."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, make_dataclass
from typing import Any

from dila.errors import DilaError
from dila.vision import encoder_config


def command(name: str, run: Callable[[], str | None]) -> int:
    """Call `run` and print its result, if any; returns the exit code. A DilaError is printed on stderr and gives 2."""
    try:
        if told := run():
            print(told)
    except DilaError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0


def encoder_flags(arguments: Sequence[str], described: Mapping[str, Any]) -> Any:
    """Make a config with the flags ``--encoder.FIELD``: ``name``, and the fields of the encoder with that name.

    Args:
        arguments: command line; ``--encoder.name`` is read first, because it determines the other flags.
        described: default encoder.

    Raises:
        DilaError: the name is unknown.
    """
    name = value_of(arguments, "--encoder.name") or described["name"]
    config = encoder_config(described if name == described["name"] else name)
    flags = make_dataclass("Encoder", [("name", str, name)], bases=(type(config),), frozen=True)
    return flags(**{field.name: getattr(config, field.name) for field in fields(config)})


def value_of(arguments: Sequence[str], flag: str) -> str | None:
    """Return the last value of a flag without parsing the command line; None if it is absent."""
    pairs = zip(arguments, [*arguments[1:], None], strict=True)
    told = [after if word == flag else word.partition("=")[2] for word, after in pairs if word.split("=")[0] == flag]
    return told[-1] if told else None


def plain(told: str | None) -> str:
    """Return a module's docstring for ``--help``, without the ``::`` lines that mark literal blocks."""
    return (told or "").replace("\n\n::\n", "\n")
