import json
from dataclasses import replace

import pytest
from train_world import small_run

from dila.configs import from_json, to_json
from dila.errors import DilaError
from dila.train.objectives import ActionConditioned, OneStep, Rollout, Terms, Weights
from dila.train.run import DecoderRun, Optimiser, Run, Stage


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
        ({"stages": (Stage(OneStep(), steps=0),)}, r"stages\[0\].steps = 0"),
        ({"batch": 0}, "batch = 0"),
        ({"stages": (Stage(ActionConditioned(context=4), steps=1),)}, "clips of 5 frames"),
    ],
)
def test_impossible_runs_are_refused(changes, told):
    with pytest.raises(DilaError, match=told):
        replace(small_run(), **changes)
