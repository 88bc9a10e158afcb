"""Plugins: packages that add to dila's registries of models, encoders, readers and so on. See docs/extending.md.

A plugin registers itself when it is imported. Installed plugins are found through entry points of the group ``dila``,
others through ``$DILA_PLUGINS`` (module names separated by commas), which worker processes inherit.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import entry_points
from threading import RLock
from typing import Any

from dila.errors import DilaError, first_line

GROUP = "dila"
VARIABLE = "DILA_PLUGINS"

_loaded = False
_lock = RLock()


def load_plugins() -> None:
    """Import all plugins, once per process. Call this before looking up a name in a registry.

    Raises:
        DilaError: a plugin cannot be imported.
    """
    global _loaded
    with _lock:  # reentrant: a plugin may itself look up names
        if _loaded:
            return
        _loaded = True
        try:
            for name, mend, load in _plugins():
                _load(name, mend, load)
        except BaseException:
            _loaded = False
            raise


def named(address: str) -> Any:
    """Import the object with the address ``module:name``.

    Raises:
        ImportError, AttributeError, ValueError: the module does not exist, or does not have the name.
    """
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


def _plugins() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Yield the name of each plugin, what to do if it is broken, and a function that imports it."""
    for point in entry_points(group=GROUP):
        package = point.dist.name if point.dist else point.value
        yield point.name, f"fix or uninstall the package {package}", point.load
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` does
    for name in names:
        mend = f"fix it, remove it from {VARIABLE}, or run from the folder that contains it"
        yield name, mend, partial(importlib.import_module, name)


def _load(name: str, mend: str, load: Callable[[], Any]) -> None:
    try:
        load()
    except Exception as error:
        told = f"{type(error).__name__}: {first_line(error)}"
        raise DilaError(f"the plugin {name} cannot be imported ({told}); {mend}") from error
