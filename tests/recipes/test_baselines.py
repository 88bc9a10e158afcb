import json

import pytest

from dila.baselines.presets import BASELINES
from dila.configs import from_json, to_json
from dila.errors import DilaError
from dila.recipes import ABOUT, recipe
from dila.recipes.small import small
from dila.recipes.tiny_pusht import tiny_pusht
from dila.train.published import Published
from dila.train.run import Run
from dila.vision import build_encoder

EVERY = [f"baseline:{name}{size}" for name in BASELINES for size in ("", "@tiny", "@small", "@published")]


@pytest.mark.parametrize("name", EVERY)
def test_every_recipe_survives_json_and_bears_its_name(name):
    run = recipe(name)
    assert run.name == name
    assert from_json(Run, json.loads(json.dumps(to_json(run)))) == run
    assert all(isinstance(stage.objective, Published) for stage in run.stages)


@pytest.mark.parametrize("name", [name for name in EVERY if name.endswith(("y", "d")) or "@" not in name])
def test_the_model_fits_the_encoder(name):
    run = recipe(name)
    encoder = build_encoder(run.encoder)
    assert (encoder.grid, encoder.feature_dim) == (run.model.grid, run.model.feature_dim)


@pytest.mark.parametrize(("size", "dila"), [("tiny", tiny_pusht()), ("small", small())])
@pytest.mark.parametrize("name", BASELINES)
def test_at_dilas_sizes_data_clips_and_optimiser_are_dilas(name, size, dila):
    run = recipe(f"baseline:{name}@{size}")
    same = ("encoder", "clips", "optimiser", "batch", "steps", "seed", "precision")
    assert [getattr(run, field) for field in same] == [getattr(dila, field) for field in same]


def test_what_the_authors_published_is_what_is_run():
    lapa, adaworld = recipe("baseline:lapa@published"), recipe("baseline:adaworld@published")
    assert (lapa.batch, lapa.steps, lapa.clips.frames) == (64, 100_000, 2)
    assert (lapa.optimiser.lr, lapa.optimiser.weight_decay, lapa.optimiser.clip) == (1e-4, 0, 0.5)
    optimiser = adaworld.optimiser
    assert (optimiser.lr, optimiser.weight_decay, optimiser.clip) == (2.5e-5, 1e-2, 0.3)
    assert optimiser.decay_norms  # plain AdamW over all parameters
    assert adaworld.stages[0].objective.weights.kl == 2e-4
    moto = recipe("baseline:moto@published")
    assert moto.optimiser.rate(0, moto.steps) == 1e-4
    assert moto.optimiser.rate(moto.steps, moto.steps) == pytest.approx(5e-5)
    assert recipe("baseline:villax@published").clips.frames == 8
    diffusion = recipe("adaworld_diffusion_published")
    assert diffusion.steps * diffusion.batch == 100 * 320_000
    assert (diffusion.optimiser.lr, diffusion.optimiser.warmup, diffusion.optimiser.clip) == (5e-5, 10_000, 0.3)
    assert diffusion.optimiser.decay_norms


def test_every_baseline_has_its_line_of_help():
    assert list(ABOUT) == list(BASELINES)


@pytest.mark.parametrize(
    ("name", "told"), [("baseline:genie", "no baseline 'genie'"), ("baseline:lapa@huge", "no size 'huge'")]
)
def test_an_unknown_one_is_named(name, told):
    with pytest.raises(DilaError, match=told):
        recipe(name)


def test_a_baseline_has_no_ablations():
    with pytest.raises(DilaError, match="ablation discrete needs a DiLA model, which baseline:lapa does not train"):
        recipe("ablation:discrete@baseline:lapa")
