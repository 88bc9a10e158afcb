import json

import pytest
import torch

from dila.configs import from_json, to_json
from dila.errors import DilaError
from dila.model.config import Quirks
from dila.model.dila import DiLA, count_parameters
from dila.recipes import RECIPES, recipe
from dila.train.objectives import OneStep, Rollout, Weights
from dila.train.run import Run
from dila.vision import DECODERS, ENCODERS, build_encoder


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json_and_bears_its_name(name):
    run = recipe(name)
    assert run.name == name
    assert from_json(Run, json.loads(json.dumps(to_json(run)))) == run
    assert run.encoder["name"] in ENCODERS
    assert {"conv"} <= DECODERS.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_costs(name):
    told = RECIPES[name].__doc__
    assert "Hardware:" in told
    assert "score" in told


def test_an_unknown_recipe_lists_the_known():
    forms = r"tiny_pusht, box, small, paper, .*, ablation:NAME\[@RECIPE\] or baseline:NAME\[@SIZE\]"
    with pytest.raises(DilaError, match=f"unknown recipe 'huge'; choose one of {forms}"):
        recipe("huge")


@pytest.mark.parametrize(
    ("given", "meant"), [("lapa", "baseline:lapa"), ("gausian", "ablation:gaussian"), ("tiny_push", "tiny_pusht")]
)
def test_an_unknown_recipe_names_the_one_that_may_be_meant(given, meant):
    with pytest.raises(DilaError, match=rf"did you mean {meant}\? choose"):
        recipe(given)


def test_the_papers_recipe_is_the_papers():
    run = recipe("paper")
    with torch.device("meta"):
        assert 122e6 < count_parameters(DiLA(run.model)) < 124e6
    assert [type(stage.objective) for stage in run.stages] == [OneStep, Rollout]
    assert [stage.steps for stage in run.stages] == [30_000, 1_000]
    assert all(stage.objective.terms.weights == Weights() for stage in run.stages)
    assert not any(stage.objective.terms.as_released for stage in run.stages)
    assert run.model.quirks == Quirks()
    optimiser = run.optimiser
    assert (optimiser.lr, optimiser.weight_decay, optimiser.clip, optimiser.warmup) == (1e-4, 1e-5, 6.0, 0)
    assert optimiser.decay_norms
    assert optimiser.rate(0, run.steps) == optimiser.rate(run.steps - 1, run.steps) == 1e-4
    assert (run.batch, run.clips.frames) == (32, 16)


def test_the_tiny_recipe_fits_the_embedded_encoder():
    run = recipe("tiny_pusht")
    encoder = build_encoder(run.encoder)
    assert (encoder.grid, encoder.feature_dim) == (run.model.grid, run.model.feature_dim)
