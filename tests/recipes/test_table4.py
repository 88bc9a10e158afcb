"""The protocol of table 4 as values, and its arithmetic on a toy."""

import json

import pytest

from dila.errors import DilaError
from dila.planning.environments import ENVIRONMENTS
from dila.planning.mppi import MPPI
from dila.recipes import table4 as recipe
from dila.recipes.table4 import run_table4, table4


def test_the_protocol_is_vp2s():
    plans = table4()
    assert set(plans) <= set(ENVIRONMENTS)
    assert len(plans) == 8
    assert plans["robodesk-open-slide"].search == MPPI(samples=800)
    for task, plan in plans.items():
        assert plan.environment == task
        assert (plan.horizon, plan.steps, plan.context, plan.over, plan.cost) == (10, 14, 2, "sum", "pixels")
        assert plan.search in (MPPI(samples=200, gamma=0.05, iterations=1), MPPI(samples=800))


def test_runs_are_averaged_and_tasks_normalised_by_the_simulator(tmp_path, monkeypatch):
    def measured(world, space, plan, out):
        share = 0.25 if plan.seed == recipe.APART else 0.75
        best = 0.0 if plan.environment == "robodesk-push-red" else 0.8
        arms = {"random": 0.0, "model": share, "simulator": best}
        return {"arms": {arm: {"success": success} for arm, success in arms.items()}}

    monkeypatch.setattr(recipe, "measure_planning", measured)
    monkeypatch.setattr(recipe, "load_actions", lambda path: (None, None))
    monkeypatch.setattr(recipe, "load_pretrained", lambda path, device: ())
    monkeypatch.setattr(recipe, "World", lambda *parts, bf16: None)
    plans = {task: table4()[task] for task in ("robosuite-push", "robodesk-push-red")}
    table = run_table4(dict.fromkeys(plans, "m"), tmp_path, plans, seeds=(1, 2))
    assert table["tasks"]["robosuite-push"]["model"] == {"mean": 0.5, "deviation": pytest.approx(0.3536, abs=1e-3)}
    assert table["tasks"]["robodesk-push-red"]["normalised"] is None
    assert (table["aggregate"], table["of_tasks"]) == (0.625, 1)
    assert json.loads((tmp_path / "table4.json").read_text()) == table
    with pytest.raises(DilaError, match="models has none for robosuite-push"):
        run_table4({"robodesk-push-red": "m"}, tmp_path, plans)
