"""Version and commit of dila, stored with every result."""

import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed
from pathlib import Path


def version() -> str:
    """Version of the installed distribution, such as "0.1.0"; "not installed" in a bare source tree."""
    try:
        return _installed("dila-wm")
    except PackageNotFoundError:
        return "not installed"


def commit() -> str | None:
    """Commit of the source tree, with ``-dirty`` if it was modified; None if dila does not run from its own tree."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed, perhaps in an environment inside another repository
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
