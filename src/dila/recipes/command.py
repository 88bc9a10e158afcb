"""A recipe as a program, ``python -m dila.recipes.NAME``."""

import sys
from collections.abc import Callable

from dila.errors import DilaError


def command(name: str, run: Callable[[], str]) -> int:
    """Run it and print what it tells; gives the exit code. Bad input is one sentence on stderr and exit code 2."""
    try:
        print(run())
    except DilaError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0
