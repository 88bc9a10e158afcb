"""The version of the installed distribution, written beside every result."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed


def version() -> str:
    """Such as "0.1.0"; "not installed" when run from a bare source tree."""
    try:
        return _installed("dila-wm")
    except PackageNotFoundError:
        return "not installed"
