"""Recipes: training runs by name. A recipe is a function that returns a `dila.train.run.Run`."""

from collections.abc import Callable
from dataclasses import replace

from dila.errors import DilaError
from dila.plugins import load_plugins
from dila.recipes.ablations import ABLATIONS, ablated
from dila.recipes.adaworld_diffusion import adaworld_diffusion, adaworld_diffusion_published
from dila.recipes.baselines import ABOUT, BASELINE, baseline_recipe
from dila.recipes.box import box
from dila.recipes.paper import paper
from dila.recipes.small import small
from dila.recipes.tiny_pusht import tiny_pusht
from dila.train.run import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "tiny_pusht": tiny_pusht,
    "box": box,
    "small": small,
    "paper": paper,
    "adaworld_diffusion": adaworld_diffusion,
    "adaworld_diffusion_published": adaworld_diffusion_published,
}

ABLATION = "ablation"


def recipe(name: str) -> Run:
    """Return the run with this name.

    A name is that of a recipe, ``ablation:NAME[@RECIPE]`` (default: of tiny_pusht), or ``baseline:NAME[@SIZE]``, see
    `dila.recipes.baselines`.

    Raises:
        DilaError: the name is unknown.
    """
    load_plugins()
    kind, _, rest = name.partition(":")
    if kind == ABLATION:
        change, _, of = rest.partition("@")
        return replace(ablated(change, recipe(of or tiny_pusht.__name__)), name=name)
    if kind == BASELINE:
        return baseline_recipe(rest)
    if name not in RECIPES:
        raise DilaError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()


__all__ = ["ABLATION", "ABLATIONS", "ABOUT", "BASELINE", "RECIPES", "box", "paper", "recipe", "small", "tiny_pusht"]
