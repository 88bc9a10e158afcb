"""``dila train``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from dila.cli.arguments import read
from dila.recipes import RECIPES, recipe
from dila.train.run import Run

_HELP = """usage: dila train RECIPE --data PATH [--out DIR] [options]

Train a recipe on video: a file, a folder of videos, or a folder of frames.

recipes:
{recipes}

`dila train RECIPE --help` lists every field of the recipe; each is a flag, such as --batch 8 --optimiser.lr 1e-4."""


@dataclass(frozen=True)
class Order:
    """What to train on and where to write."""

    data: Path
    """The corpus: a video file, a folder of videos or of frames, at any depth."""
    out: Path | None = None
    """Folder of the run: checkpoints, log.jsonl, pictures, run.json; runs/RECIPE when left out."""
    cache_dir: Path | None = None
    """Where encoded features are kept and shared by runs; $DILA_CACHE or ~/.cache/dila/features when left out."""
    fresh: bool = False
    """Refuse to resume a run that is in the folder already."""
    run: Annotated[Run, tyro.conf.arg(name="")] = field(default_factory=lambda: next(iter(RECIPES.values()))())


def main(arguments: Sequence[str]) -> None:
    """Read the recipe's name, then the rest with the recipe as the default of every flag."""
    if not arguments or arguments[0].startswith("-"):
        listing = "\n".join(f"  {name:<12}  {_summary(make)}" for name, make in RECIPES.items())
        print(_HELP.format(recipes=listing))
        sys.exit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    name, *rest = arguments
    default = Order(data=tyro.MISSING, run=recipe(name))
    order = read(Order, f"train {name}", rest, default=default, config=(tyro.conf.AvoidSubcommands,))
    from dila.train.loop import train

    made = train(
        order.run, order.data, order.out or Path("runs") / name, cache_dir=order.cache_dir, resume=not order.fresh
    )
    print(f"the trained model is in {made}")


def _summary(make: object) -> str:
    return (make.__doc__ or "").strip().splitlines()[0]
