"""``dila compare``."""

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Read the command line and run `dila.recipes.compare`."""
    from dila.recipes.compare import main as compare

    compare(arguments)
