"""Training runs by name. A recipe is a function that returns a `dila.train.run.Run`."""

from collections.abc import Callable

from dila.errors import DilaError
from dila.recipes.box import box
from dila.recipes.paper import paper
from dila.recipes.small import small
from dila.recipes.tiny_pusht import tiny_pusht
from dila.train.run import Run

RECIPES: dict[str, Callable[[], Run]] = {"tiny_pusht": tiny_pusht, "box": box, "small": small, "paper": paper}


def recipe(name: str) -> Run:
    """The run with this name. Raises DilaError for an unknown one."""
    if name not in RECIPES:
        raise DilaError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()


__all__ = ["RECIPES", "box", "paper", "recipe", "small", "tiny_pusht"]
