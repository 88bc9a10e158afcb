"""``dila eval planning``: the paper's table 4, which is `dila plan` in a simulator."""

from collections.abc import Sequence

from dila.cli.arguments import read
from dila.cli.plan import plan


def main(arguments: Sequence[str]) -> None:
    """Read the command line and run."""
    read(plan, "eval planning", arguments)
