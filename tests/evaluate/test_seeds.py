import pytest

from dila.evaluate.result import Result, Score, Subject
from dila.evaluate.seeds import Claim, by_seed, judge, pair_seeds


def results(name, error, r2, seeds=range(5)):
    wobble = (0.0, 0.01, -0.01, 0.005, -0.005)
    return [
        Result(
            "comparison", Subject(name, seed, "", "", 1, ""), "", "", {},
            (
                Score("error", seed * 0.1 + error * (1 + wobble[seed]), better="lower"),
                Score("r2", r2 * (1 + wobble[seed])),
            ),
        )
        for seed in seeds
    ]  # fmt: skip


FOUND = [*results("dila", 0.5, 0.8), *results("lapa", 0.6, 0.8), *results("moto", 0.45, 0.7)]


def test_seeds_that_differ_more_than_models_do_are_paired():
    tests = {(test.score, test.first): test for test in pair_seeds(FOUND, "dila")}
    assert set(tests) == {("error", "lapa"), ("error", "moto"), ("r2", "lapa"), ("r2", "moto")}
    lapa = tests["error", "lapa"]
    assert lapa.difference == pytest.approx(0.1)
    assert lapa.p_holm < 1e-6
    assert tests["r2", "lapa"].p == 1
    assert tests["r2", "lapa"].p_holm == 1
    assert lapa.seeds == 5


def test_a_model_with_one_seed_is_not_tested():
    assert pair_seeds([*results("dila", 0.5, 0.8), *results("lapa", 0.6, 0.8, [0])], "dila") == []
    assert by_seed(results("lapa", 0.5, 0.8, [0]), "r2") == {"lapa": {0: 0.8}}


def test_a_claim_holds_is_reversed_or_open():
    tests = pair_seeds(FOUND, "dila")
    told = {
        (score, other): judge(Claim("a claim", "here", score, "dila", other), tests)
        for score in ("error", "r2")
        for other in ("lapa", "moto", "villax")
    }
    assert {of: its and its[1] for of, its in told.items()} == {
        ("error", "lapa"): "holds", ("error", "moto"): "reversed", ("error", "villax"): None,
        ("r2", "lapa"): "open", ("r2", "moto"): "holds", ("r2", "villax"): None,
    }  # fmt: skip
    test = told["error", "lapa"][0]
    assert test.difference == pytest.approx(-0.1)
    assert test.first == "dila"
    assert test.low < test.high < 0
