"""A recipe as a program, ``python -m dila.recipes.NAME``."""

import sys
from collections.abc import Callable

from dila.errors import DilaError


def command(name: str, run: Callable[[], str | None]) -> int:
    """Run it and print what it gives, if anything. Gives the exit code; bad input is one sentence on stderr and 2."""
    try:
        if told := run():
            print(told)
    except DilaError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0


def plain(told: str | None) -> str:
    """A module's docstring as ``--help`` shows it: without the lone mark before lines that are shown as they stand."""
    return (told or "").replace("\n\n::\n", "\n")
