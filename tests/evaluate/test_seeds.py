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
    claim = Claim("smaller errors", "here", "error", "dila", ("lapa", "moto", "villax"))
    told = judge(claim, tests)
    assert {other: verdict for other, (_, verdict) in told.items()} == {"lapa": "holds", "moto": "reversed"}
    assert told["lapa"][0].difference == pytest.approx(-0.1)
    assert told["lapa"][0].first == "dila"
    assert told["lapa"][0].low < told["lapa"][0].high < 0
    higher = judge(Claim("a better probe", "here", "r2", "dila", ("lapa", "moto")), tests)
    assert {other: verdict for other, (_, verdict) in higher.items()} == {"lapa": "open", "moto": "holds"}
