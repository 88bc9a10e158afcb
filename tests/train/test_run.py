import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from train_world import small_model, small_run

from dila.configs import from_json, to_json
from dila.errors import DilaError
from dila.model.config import BackboneConfig, InverseDynamicsConfig
from dila.train.objectives import ActionConditioned, OneStep, Rollout, Terms, Weights
from dila.train.run import ClipSettings, DecoderRun, Guard, Optimiser, Run, Stage


def test_a_run_survives_json_with_the_kind_of_each_objective():
    terms = Terms(Weights(feature=1.0), motion=0.5)
    stages = (Stage(OneStep(terms, 0.5), 3), Stage(Rollout(), 2, lr=1e-4), Stage(ActionConditioned(context=1), 1))
    run = small_run(stages=stages, decoder=DecoderRun(steps=3))
    described = json.loads(json.dumps(to_json(run)))
    assert [stage["objective"]["kind"] for stage in described["stages"]] == ["OneStep", "Rollout", "ActionConditioned"]
    assert "kind" not in described["decoder"]
    assert from_json(Run, described) == run


@pytest.mark.parametrize("kind", [None, "TwoStep"])
def test_an_objective_without_a_known_kind_is_named(kind):
    described = to_json(small_run())
    described["stages"][1]["objective"]["kind"] = kind
    with pytest.raises(DilaError, match=r"stages\[1\]\.objective\.kind should be one of OneStep, Rollout, Action"):
        from_json(Run, described)


def test_a_wrong_field_inside_an_objective_is_named():
    described = to_json(small_run())
    described["stages"][0]["objective"]["terms"]["weights"]["sensory"] = 1.0
    with pytest.raises(DilaError, match=r"stages\[0\]\.objective\.terms\.weights has no field sensory"):
        from_json(Run, described)


def test_the_learning_rate_warms_up_and_ends_at_the_floor():
    cosine = Optimiser(lr=1.0, warmup=10, schedule="cosine", floor=0.1)
    assert [cosine.rate(step, 110) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert cosine.rate(60, 110) == pytest.approx(0.55)
    assert cosine.rate(110, 110) == pytest.approx(0.1)
    assert cosine.rate(9, 110, peak=0.5) == 0.5
    assert Optimiser(lr=1.0).rate(0, 10) == Optimiser(lr=1.0).rate(9, 10) == 1.0
    held = Optimiser(lr=1.0, warmup=10, schedule="cosine", hold=0.6, floor=0.1)
    assert [held.rate(step, 110) for step in (9, 40, 70)] == [1.0, 1.0, 1.0]
    assert held.rate(90, 110) == pytest.approx(0.55)
    assert held.rate(110, 110) == pytest.approx(0.1)
    with pytest.raises(DilaError, match=r"optimiser\.hold = 1\.0"):
        Optimiser(hold=1.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stages": ()}, "stages is empty"),
        ({"stages": (Stage(OneStep(), steps=0),)}, r"stages\.0\.steps = 0"),
        ({"stages": (Stage(OneStep(), steps=1, lr=float("nan")),)}, r"stages\.0\.lr = nan must be at least 0"),
        ({"batch": 0}, "batch = 0"),
        (
            {"encoder": {"name": "patch", "seed": 20261128}},
            r"encoder\.seed = 20261128 is not between 0 and 1,048,576; choose",
        ),
        ({"seed": -5}, "seed = -5 must be at least 0"),
        ({"checkpoint_every": 0}, "checkpoint_every = 0 must be at least 1"),
        ({"checkpoint_minutes": float("nan")}, "checkpoint_minutes = nan must be at least 0"),
        ({"workers": -1}, "workers = -1 must be at least 0"),
        ({"hold": -1.0}, r"hold = -1\.0 must be at least 0"),
        ({"tolerate": 7.0}, r"tolerate = 7\.0 must be from 0 to 1"),
        ({"stages": (Stage(ActionConditioned(context=4), steps=1),)}, "clips of 5 frames"),
    ],
)
def test_impossible_runs_are_refused(changes, told):
    with pytest.raises(DilaError, match=told):
        replace(small_run(), **changes)


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        (Optimiser, {"lr": float("nan")}, r"optimiser\.lr = nan must be at least 0"),
        (Optimiser, {"lr": -1.0}, r"optimiser\.lr = -1\.0 must be at least 0"),
        (Optimiser, {"betas": (0.9, 2.0)}, r"optimiser\.betas = \(0\.9, 2\.0\) must be at least 0 and below 1"),
        (Optimiser, {"clip": 0.0}, r"optimiser\.clip = 0\.0 must be above 0"),
        (ClipSettings, {"stride": 0.0}, r"clips\.stride = 0\.0 must be above 0"),
        (ClipSettings, {"frames": 1}, r"clips\.frames = 1 must be at least 2"),
        (ClipSettings, {"held_out": 1.0}, r"clips\.held_out = 1\.0 must be at least 0 and below 1"),
        (DecoderRun, {"batch": 0}, r"decoder\.batch = 0 must be at least 1"),
        (Guard, {"patience": 0}, r"guard\.patience = 0 must be at least 1"),
    ],
)
def test_a_number_outside_its_range_is_refused_by_its_flag(kind, changes, told):
    with pytest.raises(DilaError, match=told):
        kind(**changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dropout": 2.0}, r"model\.dropout = 2\.0 must be at least 0 and below 1"),
        ({"structure_dim": -4}, r"model\.structure_dim = -4 must be at least 1"),
        ({"action_dim": 0}, r"model\.action_dim = 0 must be at least 1"),
        ({"backbone": BackboneConfig(heads=0)}, r"model\.backbone\.heads = 0 must be at least 1"),
        ({"idm": InverseDynamicsConfig(channels=(8, 0))}, r"model\.idm\.channels = \(8, 0\) must be at least 1"),
        ({"backbone": BackboneConfig(spatial_depth=-1)}, r"model\.backbone\.spatial_depth = -1 must be at least 0"),
    ],
)
def test_sizes_that_make_no_model_are_refused(changes, told):
    with pytest.raises(DilaError, match=told):
        small_run(model=replace(small_model(), **changes))


def test_a_model_may_have_no_layers_and_a_gradient_no_bound():
    model = replace(small_model(), backbone=BackboneConfig(spatial_depth=0, temporal_depth=0))
    run = small_run(model=model, optimiser=Optimiser(clip=float("inf")))
    assert from_json(Run, json.loads(json.dumps(to_json(run)))) == run


def test_an_objective_that_run_json_cannot_hold_is_refused():
    @dataclass(frozen=True)
    class Held:
        what: object

        def __call__(self, model, batch):
            raise NotImplementedError

    refused: list[Any] = [lambda model, batch: OneStep()(model, batch), Held, Held(torch.zeros(2))]
    for objective in refused:
        with pytest.raises(
            DilaError, match=r"stages\.0\.objective cannot be stored in run\.json .*; make it a dataclass"
        ):
            small_run(stages=(Stage(objective, steps=1),))
