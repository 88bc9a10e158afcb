"""Packages of one's own that add to dila's tables of models, encoders, readers and so on: see docs/extending.md.

A package adds by being imported. An installed one is known by its entry points of the group ``dila``, any other by its
name in ``$DILA_PLUGINS`` (several with commas between), which worker processes inherit.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from dila.errors import DilaError, first_line

GROUP = "dila"
VARIABLE = "DILA_PLUGINS"

_loaded = False


def load_plugins() -> None:
    """Import all of them, once a process. Whoever looks a name up in a table calls this first.

    Raises:
        DilaError: one cannot be imported.
    """
    global _loaded
    if _loaded:
        return
    _loaded = True  # before: what is imported may look up names itself
    try:
        for name, mend, load in _plugins():
            _load(name, mend, load)
    except BaseException:
        _loaded = False
        raise


def named(address: str) -> Any:
    """What stands in a module under a name, by its address ``module:name``; imported now.

    Raises:
        ImportError, AttributeError, ValueError: there is no such module, or it has no such name.
    """
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


def _plugins() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name of each, what to do with a broken one, and what imports it."""
    for point in entry_points(group=GROUP):
        package = point.dist.name if point.dist else point.value
        yield point.name, f"mend or uninstall the package {package}", point.load
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` has it
    for name in names:
        mend = f"mend it, or take it out of {VARIABLE}, or start where it lies"
        yield name, mend, partial(importlib.import_module, name)


def _load(name: str, mend: str, load: Callable[[], Any]) -> None:
    try:
        load()
    except Exception as error:
        told = f"{type(error).__name__}: {first_line(error)}"
        raise DilaError(f"the plugin {name} cannot be imported ({told}); {mend}") from error
