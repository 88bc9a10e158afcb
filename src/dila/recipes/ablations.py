"""Ablations by name (paper table 2, figure 5, and some of our own): each changes one thing of a recipe.

``dila train ablation:discrete --data ...`` trains the ablation of ``tiny_pusht``, ``ablation:discrete@paper`` that of
the paper's recipe. docs/ablations.md explains the purpose of each.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, cast

from dila.errors import DilaError
from dila.model.config import DiLAConfig, Discrete, Gaussian, NoAction, NoContent, WholeChange
from dila.train.objectives import OneStep, Rollout, Weights
from dila.train.run import Run, Stage

Change = Callable[[Run], Run]

WIDTHS = (2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Dimensions of z."""


def ablated(name: str, run: Run) -> Run:
    """Return the run with one thing changed.

    Raises:
        DilaError: the name is unknown, or the ablation would not change this run.
    """
    if name not in ABLATIONS:
        raise DilaError(f"unknown ablation {name!r}: choose one of {', '.join(ABLATIONS)}")
    if not isinstance(run.model, DiLAConfig):
        raise DilaError(f"ablation {name} needs a DiLA model, which {run.name} does not train; choose another recipe")
    changed = ABLATIONS[name](run)
    if changed == run:
        raise DilaError(f"ablation {name} does not change recipe {run.name}; train the recipe itself")
    return changed


def no_content(run: Run) -> Run:
    """No content: structure four times as wide (128 at base), the maps around it 1.5 times as wide."""
    sizes = _dila(run)
    wide = {"structure_dim": 4 * sizes.structure_dim, "mlp_hidden": sizes.hidden * 3 // 2}
    return _model(run, content=NoContent(), **wide)


def discrete(run: Run) -> Run:
    """Discrete z: 16 tokens of 32 numbers, each one of 8 codes, by NSVQ."""
    return _model(run, action_dim=16 * 32, bottleneck=Discrete(codes=8, tokens=16))


def gaussian(run: Run) -> Run:
    """Gaussian z: sampled in training, KL divergence from the prior at weight 1e-4."""
    return _model(_weights(run, kl=1e-4), bottleneck=Gaussian())


def no_bottleneck(run: Run) -> Run:
    """No bottleneck: z is the whole change of structure, which the FDM receives token by token."""
    return _model(run, bottleneck=WholeChange())


def no_action(run: Run) -> Run:
    """No latent action: no IDM and FDM, structure trained by reconstruction only; no rollouts."""
    off = {field.name: 0.0 for field in fields(Weights) if field.name != "feature"}
    run = _model(_weights(run, **off), bottleneck=NoAction())
    return replace(run, stages=tuple(map(_in_one_step, run.stages)))


def pairwise(run: Run) -> Run:
    """Pairwise IDM: z depends on two frames only, not on their neighbours."""
    return _model(run, idm=replace(_dila(run).idm, pairwise=True))


def bidirectional(run: Run) -> Run:
    """Bidirectional IDM (the paper's): z depends on neighbouring transitions on both sides.

    Where z is odd by construction, which needs `pairwise`, the paper's group norms and symmetry loss take its place.
    """
    sizes = _dila(run).idm
    if sizes.odd:
        run = _weights(run, symmetry=Weights().symmetry)
    return _model(run, idm=replace(sizes, pairwise=False, odd=False, normalise=sizes.normalise or sizes.odd))


def _width(numbers: int) -> Change:
    def width(run: Run) -> Run:
        return _model(run, action_dim=numbers)

    width.__doc__ = f"z of {numbers} numbers."
    return width


def _without(term: str) -> Change:
    def without(run: Run) -> Run:
        return _weights(run, **{term: 0.0})

    without.__doc__ = f"Without the {term} loss."
    return without


def _dila(run: Run) -> DiLAConfig:
    """Model config of the run; `ablated` has checked its type."""
    return cast(DiLAConfig, run.model)


def _model(run: Run, **changes: Any) -> Run:
    return replace(run, model=replace(run.model, **changes))


def _weights(run: Run, **changes: float) -> Run:
    return replace(run, stages=tuple(_weighed(stage, changes) for stage in run.stages))


def _weighed(stage: Stage, changes: dict[str, float]) -> Stage:
    objective = cast(OneStep | Rollout, stage.objective)
    if not hasattr(objective, "terms"):
        raise DilaError(f"stage {stage.title} has no loss terms to change; loss ablations need DiLA's own objectives")
    terms = replace(objective.terms, weights=replace(objective.terms.weights, **changes))
    return replace(stage, objective=replace(objective, terms=terms))


def _in_one_step(stage: Stage) -> Stage:
    if not isinstance(stage.objective, Rollout):
        return stage
    return replace(stage, objective=OneStep(stage.objective.terms))


_TERMS = ("feature", "structure", "action", "diversity", "norm", "symmetry")

ABLATIONS: dict[str, Change] = {
    "no-content": no_content,
    "discrete": discrete,
    "gaussian": gaussian,
    "no-bottleneck": no_bottleneck,
    "no-action": no_action,
    **{f"z-{numbers}": _width(numbers) for numbers in WIDTHS},
    "pairwise": pairwise,
    "bidirectional": bidirectional,
    **{f"no-{term}-loss": _without(term) for term in _TERMS},
}
"""Ablations by name; the first line of each docstring is its help text."""
