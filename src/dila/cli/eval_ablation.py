"""``dila eval ablation``: the paper's table 2, which is `dila eval cycle` for each run and `dila report` for all."""

from collections.abc import Sequence
from functools import partial

from dila.cli.arguments import read
from dila.cli.eval import evaluate


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and run."""
    about = "Table 2 for one run: rollout, cycle transfer and one-step error; `dila report` compares several."
    read(partial(evaluate, "cycle"), "eval ablation", arguments, description=about)
