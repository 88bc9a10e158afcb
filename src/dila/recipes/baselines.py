"""Recipes of the baselines: ``baseline:NAME`` (size tiny), ``baseline:NAME@small``, ``baseline:NAME@published``.

At ``tiny`` and ``small``, everything except model and objective is that of DiLA's recipe of this size: encoder, data,
number of clips, optimiser, motion weight. At ``published``, settings are those of the authors where they state them.
"""

from dataclasses import replace
from typing import Any

from dila.baselines.presets import PUBLISHED, SMALL, TINY, baseline
from dila.errors import DilaError
from dila.recipes.small import small
from dila.recipes.tiny_pusht import tiny_pusht
from dila.train.published import Published
from dila.train.run import ClipSettings, Optimiser, Run, Stage

BASELINE = "baseline"

ABOUT = {
    "lapa": "LAPA: two frames to four of eight codes (NSVQ), to which the first frame's patches attend.",
    "moto": "Moto: eight of 128 codes (VQ), added to every patch of the first frame.",
    "adaworld": "AdaWorld's latent action model: a Gaussian of 32 numbers, added to every patch of the first frame.",
    "villax": "villa-X's latent action model: four of 32 codes (VQ) per transition, inferred from the clip so far.",
}
"""Help text of each baseline."""

_PUBLISHED: dict[str, dict[str, Any]] = {
    "lapa": {
        "encoder": {"name": "pixels", "size": 256, "patch": 32},
        "optimiser": Optimiser(lr=1e-4, weight_decay=0.0, clip=0.5),
        "batch": 64,
    },
    "moto": {
        "encoder": {"name": "pixels", "size": 224, "patch": 16},
        "optimiser": Optimiser(lr=1e-4, schedule="cosine", floor=0.5),
        "clips": ClipSettings(frames=2, stride=0.4),
    },
    "adaworld": {
        "encoder": {"name": "pixels", "size": 256, "patch": 16},
        "optimiser": Optimiser(lr=2.5e-5, weight_decay=1e-2, clip=0.3, decay_norms=True),
    },
    "villax": {
        "encoder": {"name": "pixels", "size": 224, "patch": 14},
        "optimiser": Optimiser(lr=1e-4),
        "clips": ClipSettings(frames=8, stride=0.2),
    },
}


def baseline_recipe(name: str) -> Run:
    """Return the run of ``NAME`` or ``NAME@SIZE``; sizes are tiny, small and published.

    Hardware: tiny, two CPU cores; small, one GPU; published, several GPUs. Time and score: see docs/baselines.md.

    Raises:
        DilaError: the name or the size is unknown.
    """
    model, _, size = name.partition("@")
    size = size or TINY
    config = baseline(model, size)
    if size not in _SIZES:
        raise DilaError(f"baseline {model} has no recipe for size {size!r}; choose one of {', '.join(_SIZES)}")
    return replace(_SIZES[size](model, config), name=f"{BASELINE}:{name}")


def _tiny(model: str, config: Any) -> Run:
    run = tiny_pusht()
    return replace(run, model=config, stages=(Stage(Published(motion=2.0), steps=run.steps),))


def _small(model: str, config: Any) -> Run:
    run = small()
    return replace(run, model=config, stages=(Stage(Published(motion=1.0), steps=run.steps),))


def _published(model: str, config: Any) -> Run:
    """The published settings; 100,000 steps as in LAPA. Where unpublished: 32 pairs of frames per step, 0.2 s apart."""
    settings = {"clips": ClipSettings(frames=2, stride=0.2), "batch": 32} | _PUBLISHED[model]
    return Run(
        name=model,
        model=config,
        stages=(Stage(Published(), steps=100_000),),
        log_every=50,
        evaluate_every=2_000,
        checkpoint_minutes=20.0,
        workers=4,
        **settings,
    )


_SIZES = {TINY: _tiny, SMALL: _small, PUBLISHED: _published}
