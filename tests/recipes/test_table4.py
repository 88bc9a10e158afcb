"""The protocol of table 4 as values, and its arithmetic on a toy."""

import json
from dataclasses import replace

import pytest

from dila.errors import DilaError
from dila.evaluate.planning import ARMS
from dila.planning.environments import ENVIRONMENTS
from dila.planning.mppi import MPPI
from dila.planning.planner import Blind
from dila.recipes import table4 as recipe
from dila.recipes.table4 import main, markdown, run_table4, table4


def test_the_protocol_is_vp2s():
    plans = table4()
    assert set(plans) <= set(ENVIRONMENTS)
    assert len(plans) == 8
    still = {"robosuite": (0.5, 0.5, 0.5, 0.0), "robodesk": (0.5, 0.5, 0.5, 0.1, 0.1)}
    assert plans["robodesk-open-slide"].search == MPPI(samples=800, std=still["robodesk"])
    for task, plan in plans.items():
        assert plan.environment == task
        assert (plan.horizon, plan.steps, plan.context, plan.over, plan.cost) == (10, 14, 2, "sum", "pixels")
        std = still[task.partition("-")[0]]
        assert plan.search in (MPPI(samples=200, gamma=0.05, iterations=1, std=std), MPPI(samples=800, std=std))
        assert plan.blind == Blind(std)


@pytest.fixture
def toy(monkeypatch):
    """Planning that costs nothing; tells which arms it ran of whom."""
    ran = []

    def measured(world, space, plan, out, subject):
        assert subject == world
        ran.append((world, plan.environment, plan.arms))
        share = {"good": 0.25 if plan.seed == recipe.APART else 0.75, "bad": 0.0}[world]
        best = 0.0 if plan.environment == "robodesk-push-red" else 0.8
        arms = {"random": 0.0, "model": share, "simulator": best}
        return {"arms": {arm: {"success": arms[arm], "progress": arms[arm] / 2} for arm in plan.arms}}

    monkeypatch.setattr(recipe, "measure_planning", measured)
    monkeypatch.setattr(recipe, "load_actions", lambda path: (None, None))
    monkeypatch.setattr(recipe, "load_pretrained", lambda path, device: (path,))
    monkeypatch.setattr(recipe, "subject_of", lambda path, world, run, name: name)
    monkeypatch.setattr(recipe, "World", lambda path, bf16: path)
    return ran


PLANS = {task: table4()[task] for task in ("robosuite-vp2", "robodesk-push-red")}


def test_runs_are_averaged_and_tasks_normalised_by_the_simulator(tmp_path, toy):
    table = run_table4({name: dict.fromkeys(PLANS, name) for name in ("good", "bad")}, tmp_path, PLANS, seeds=(1, 2))
    push, red = table["tasks"].values()
    assert push["models"]["good"]["success"] == {"mean": 0.5, "deviation": pytest.approx(0.3536, abs=1e-3)}
    assert push["models"]["good"]["progress"]["mean"] == 0.25
    assert push["models"]["bad"]["normalised"] == 0.0
    assert red["models"]["good"]["normalised"] is None
    assert table["aggregate"] == {"good": {"mean": 0.625, "of_tasks": 1}, "bad": {"mean": 0.0, "of_tasks": 1}}
    assert json.loads((tmp_path / "table4.json").read_text()) == table
    told = markdown(table)
    assert "| robosuite-vp2 | 0 / 0.00 | 50 / 0.25 | 0 / 0.00 | 80 / 0.40 |" in told
    assert "| of the simulator's success |  | 62 | 0 | 100 |" in told


def test_what_knows_no_model_is_run_once(tmp_path, toy):
    models = {name: dict.fromkeys(PLANS, name) for name in ("good", "bad")}
    run_table4(models, tmp_path, {"robosuite-vp2": PLANS["robosuite-vp2"]}, seeds=(1,))
    assert toy == [("good", "robosuite-vp2", ARMS), ("bad", "robosuite-vp2", ("model",))]
    toy.clear()
    own = replace(PLANS["robosuite-vp2"], cost="structure", upper="same")
    run_table4(models, tmp_path, {"robosuite-vp2": own}, seeds=(1,))
    assert [arms for _, _, arms in toy] == [ARMS, ARMS]


def test_a_task_without_a_model_is_named(tmp_path):
    with pytest.raises(DilaError, match="mine has no model for robosuite-vp2"):
        run_table4({"mine": {"robodesk-push-red": "m"}}, tmp_path, PLANS)


def test_the_command_runs_the_protocol_on_folders_of_adapted_models(tmp_path, toy, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(recipe, "World", lambda path, bf16: asked.append(path) or path.parents[1].name)
    line = ["--episodes", "3", "--seeds", "2", "--tasks", "robosuite-vp2", "robodesk-push-red"]
    assert main([str(tmp_path / "good"), str(tmp_path / "bad"), "--out", str(tmp_path / "out"), *line]) == 0
    told = capsys.readouterr().out
    assert "| robosuite-vp2 | 0 / 0.00 | 50 / 0.25 | 0 / 0.00 | 80 / 0.40 |" in told
    assert asked[0] == tmp_path / "good/robosuite/model"
    assert asked[-1] == tmp_path / "bad/robodesk/model"
    assert len(toy) == 8, "two models, two tasks, two seeds"
    assert main([str(tmp_path / "good"), "--tasks", "chess"]) == 2
    assert "tasks: there is no chess; choose from robosuite-vp2" in capsys.readouterr().err
    assert main([]) == 2
    assert "models is empty" in capsys.readouterr().err
    assert main(["a/dila", "b/dila"]) == 2
    assert "two folders have the same name" in capsys.readouterr().err
