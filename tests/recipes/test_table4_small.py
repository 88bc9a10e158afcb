"""Table 4 in small: who is trained, adapted and planned on what."""

import importlib.util
from pathlib import Path

import pytest

from dila.errors import DilaError
from dila.recipes import table4_small as recipe
from dila.recipes.table4 import TASKS
from dila.recipes.table4_small import TAUGHT, Settings, main, run_table4_small, table4_small


@pytest.fixture
def told(monkeypatch):
    """What is done, in order, with nothing done."""
    done = []

    def record(source, out, episodes):
        done.append(("record", source, episodes))
        return out

    def train(run, data, out, cache_dir):
        done.append(("train", run.name, run.steps, run.batch, run.weights, [path.name for path in data]))
        return out

    def adapt(model, data, out, how, cache_dir, device):
        assert device == "auto"
        done.append(("adapt", model.parent.name, data.name, how.layout_steps, how.steps))

    def table(models, out, plans, seeds, device):
        return {"models": models, "plans": plans, "seeds": list(seeds)}

    for name, toy in {"record_simulator": record, "train": train, "adapt": adapt, "run_table4": table}.items():
        monkeypatch.setattr(recipe, name, toy)
    return done


def test_all_see_the_same_and_are_adapted_alike(tmp_path, told):
    table = run_table4_small(Settings(out=tmp_path, names=("dila", "baseline:lapa"), recorded=5, steps=7, batch=2))
    both, weights = ["robosuite", "robodesk"], (1.0, 1.0)
    assert told == [
        ("record", "robosuite-vp2", 5), ("record", "robodesk", 5),
        ("train", "dila", 7, 2, weights, both),
        ("adapt", "dila", "robosuite", 0, 0), ("adapt", "dila", "robodesk", 0, 0),
        ("adapt", "dila", "robosuite", 400, 0), ("adapt", "dila", "robodesk", 400, 0),
        ("train", "baseline:lapa", 7, 2, weights, both),
        ("adapt", "baseline-lapa", "robosuite", 0, 0), ("adapt", "baseline-lapa", "robodesk", 0, 0),
    ]  # fmt: skip
    assert list(table["models"]) == ["dila", TAUGHT, "baseline:lapa"]
    assert tuple(table["plans"]) == TASKS
    folders = table["models"][TAUGHT]
    assert folders["robosuite-vp2"] == tmp_path / "dila-taught-in-structure-space/robosuite/model"
    assert folders["robodesk-flat-block"] == tmp_path / "dila-taught-in-structure-space/robodesk/model"


def test_some_of_the_tasks_have_the_models_of_all_and_nothing_is_adapted_twice(tmp_path, told):
    (tmp_path / "dila" / "robodesk" / "model").mkdir(parents=True)
    run_table4_small(Settings(out=tmp_path, names=("dila",), tasks=("robodesk-push-red",)))
    assert told == [
        ("record", "robosuite-vp2", 80), ("record", "robodesk", 80),
        ("train", "dila", 500, 8, (1.0, 1.0), ["robosuite", "robodesk"]),
        ("adapt", "dila", "robodesk", 400, 0),
    ]  # fmt: skip


def test_all_models_are_planned_by_the_same_cost():
    plans = table4_small(3)
    assert tuple(plans) == TASKS
    assert {(plan.cost, plan.upper, plan.episodes) for plan in plans.values()} == {("features", "score", 3)}


def test_an_unknown_task_is_one_sentence(tmp_path, capsys):
    with pytest.raises(DilaError, match="there is no robodesk-fly; choose from robosuite-vp2"):
        run_table4_small(Settings(out=tmp_path, tasks=("robodesk-fly",)))
    assert main(["--out", str(tmp_path), "--tasks", "robodesk-fly"]) == 2
    assert capsys.readouterr().err.startswith("table4: tasks: there is no robodesk-fly")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("robodesk") is None, reason="robodesk is not installed")
def test_a_row_of_the_table(tmp_path):
    command = f"--out {tmp_path} --names dila baseline:lapa --recorded 3 --steps 3 --batch 2 --layout-steps 2"
    assert main([*command.split(), "--episodes", "1", "--tasks", "robodesk-push-red"]) == 0
    videos = sorted(path.name for path in Path(tmp_path, "plans").rglob("*.mp4"))
    assert videos == ["model_100000.mp4"] * 3 + ["random_100000.mp4", "simulator_100000.mp4"]
