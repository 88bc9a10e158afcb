"""The version of the installed distribution, written beside every result."""

import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed
from pathlib import Path


def version() -> str:
    """Such as "0.1.0"; "not installed" when run from a bare source tree."""
    try:
        return _installed("dila-wm")
    except PackageNotFoundError:
        return "not installed"


def commit() -> str | None:
    """The commit of the source tree that this runs from, ``-dirty`` where it was changed; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
