"""Recipes: training runs by name. A recipe is a function that returns a `dila.train.run.Run`."""

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches

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
        raise DilaError(_unknown(name))
    return RECIPES[name]()


def _unknown(name: str) -> str:
    """List the recipes, with the one whose name, or last part of the name, is most like the given one."""
    named = {each: each for each in RECIPES}
    named |= {each: f"{kind}:{each}" for kind, known in ((ABLATION, ABLATIONS), (BASELINE, ABOUT)) for each in known}
    near = [named[each] for each in get_close_matches(name, named, n=1)]
    mend = f"did you mean {near[0]}? " if near else ""
    return (
        f"unknown recipe {name!r}; {mend}choose one of {', '.join(RECIPES)}, {ABLATION}:NAME[@RECIPE] or "
        f"{BASELINE}:NAME[@SIZE]; `dila train --help` lists the names"
    )


__all__ = ["ABLATION", "ABLATIONS", "ABOUT", "BASELINE", "RECIPES", "box", "paper", "recipe", "small", "tiny_pusht"]
