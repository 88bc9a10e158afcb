"""A recipe as a program, ``python -m dila.recipes.NAME``."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, make_dataclass
from typing import Any

from dila.errors import DilaError
from dila.vision import encoder_config


def command(name: str, run: Callable[[], str | None]) -> int:
    """Run it and print what it gives, if anything. Gives the exit code; bad input is one sentence on stderr and 2."""
    try:
        if told := run():
            print(told)
    except DilaError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0


def encoder_flags(arguments: Sequence[str], described: Mapping[str, Any]) -> Any:
    """Defaults of the flags ``--encoder.FIELD``: ``name``, and the fields of the encoder of that name.

    Args:
        arguments: of which ``--encoder.name`` is looked at ahead, since it decides what the other flags are.
        described: the encoder where none is named.

    Raises:
        DilaError: an unknown name.
    """
    name = value_of(arguments, "--encoder.name") or described["name"]
    config = encoder_config(described if name == described["name"] else name)
    flags = make_dataclass("Encoder", [("name", str, name)], bases=(type(config),), frozen=True)
    return flags(**{field.name: getattr(config, field.name) for field in fields(config)})


def value_of(arguments: Sequence[str], flag: str) -> str | None:
    """What the last of a flag says, before the flags are read."""
    pairs = zip(arguments, [*arguments[1:], None], strict=True)
    told = [after if word == flag else word.partition("=")[2] for word, after in pairs if word.split("=")[0] == flag]
    return told[-1] if told else None


def plain(told: str | None) -> str:
    """A module's docstring as ``--help`` shows it: without the lone mark before lines that are shown as they stand."""
    return (told or "").replace("\n\n::\n", "\n")
