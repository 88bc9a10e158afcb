"""Planning measured, on Push-T with a model too small to be any good: the bounds are right and nothing is redone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageColor

pytest.importorskip("gym_pusht")

from dila.errors import DilaError
from dila.evaluate.bench import subject_of
from dila.evaluate.compare import compare, distinct, find_results
from dila.evaluate.curves import MARGIN, SIZE, _ticks, write_curves
from dila.evaluate.planned import gap_closed
from dila.evaluate.planning import ARMS, PLANNERS, Planning, measure_planning, summarise
from dila.evaluate.plots import INKS
from dila.evaluate.report import write_report
from dila.evaluate.result import read_results
from dila.imagine.world import World
from dila.interop.actions import ActionSpace
from dila.planning.env_pusht import PushTBody, reach_distance
from dila.planning.environment import GoalEnvironment, Staged, Task
from dila.planning.environments import make_environment

SPACE = ActionSpace(("x", "y"), 2, ("agent_x", "agent_y"), (0.0, 0.0), (50.0, 50.0), (120.0, 120.0), 0.5, 0.8)
QUICK = Planning(
    "pusht-reach", episodes=3, planner="cem", samples=24, iterations=2, steps=8, horizon=4, together=2, size=16
)


class BlockMean:
    """Fake encoder: the mean colour of each cell, four times over."""

    grid, feature_dim = (4, 4), 12

    def encode(self, o):
        cells = (o.float() / 255).unflatten(-1, (4, -1)).unflatten(-3, (4, -1)).mean((-1, -3))
        return cells.movedim(-3, -1).repeat(1, 1, 1, 1, 4) - 0.5

    def config(self):
        return {"name": "block-mean"}


class CellColour(torch.nn.Module):
    """Fake decoder, with weights that it does not need."""

    def __init__(self, weight=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3) if weight is None else weight)

    def decode(self, e):
        return (e[..., :3] + 0.5).clamp(0, 1).movedim(-1, 2).repeat_interleave(4, -1).repeat_interleave(4, -2)

    def config(self):
        return {"name": "cell-colour"}


@pytest.fixture(scope="module")
def world():
    from dila.model.config import (
        BackboneConfig,
        DiLAConfig,
        ForwardDynamicsConfig,
        FusionDecoderConfig,
        InverseDynamicsConfig,
        MemoryConfig,
    )
    from dila.model.dila import DiLA

    torch.manual_seed(0)
    config = DiLAConfig(
        grid=(4, 4), feature_dim=12, structure_dim=4, content_dim=8, action_dim=4, mlp_hidden=8, real_action_dim=4,
        backbone=BackboneConfig(1, 1, 2, 4), memory=MemoryConfig(depth=1, state_dim=4),
        idm=InverseDynamicsConfig(channels=(8, 8), blocks=(1, 1), hidden=16),
        fdm=ForwardDynamicsConfig(dim=8, depth=1, heads=2, head_dim=4),
        decoder=FusionDecoderConfig(depth=1, heads=2, head_dim=4),
    )  # fmt: skip
    return World(DiLA(config).eval(), BlockMean(), CellColour(), stride=0.2, frames=8)


@pytest.fixture(scope="module")
def measured(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("plan")
    return out, measure_planning(world, SPACE, QUICK, out, progress=False)


def test_the_true_simulator_is_above_and_chance_below(measured):
    arms = measured[1]["arms"]
    assert arms["simulator"]["progress"] > 0.8
    assert arms["random"]["progress"] < 0.6
    assert measured[1]["normalised"]["progress"] is not None
    for arm in arms.values():
        low, high = arm["success_interval"]
        assert low <= arm["success"] <= high
        assert len(arm["scores"]) == QUICK.steps + 1


def test_everything_is_written(measured):
    from PIL import Image

    out, report = measured
    assert json.loads((out / "report.json").read_text()) == report
    assert len(list((out / "episodes").glob("*.json"))) == 9
    assert len(list((out / "videos").glob("*.mp4"))) == 9
    for name in ("curves.png", "costs.png"):
        with Image.open(out / name) as picture:
            assert picture.size == (640, 400)
    assert len(report["arms"]["model"]["costs"]) == QUICK.steps
    assert report["arms"]["random"]["costs"] == []
    assert len({json.dumps(json.loads(p.read_text())["scores"][0]) for p in out.glob("episodes/*_00001.json")}) == 1


def test_dila_report_compares_and_tests_models_by_their_plans(measured, world, tmp_path):
    subjects = [subject_of("outputs/adapted/model", world, {}, name) for name in ("mine", "other")]
    subjects[1] = replace(subjects[1], weights="others")
    for subject in subjects:
        shutil.copytree(measured[0], tmp_path / subject.name)
    for path in (tmp_path / "other/episodes").glob("model_*.json"):
        told = json.loads(path.read_text())
        path.write_text(json.dumps(told | {"scores": [told["scores"][0], 0.01]}))
    for subject in subjects:
        measure_planning(world, SPACE, QUICK, tmp_path / subject.name, subject=subject, progress=False)
    (mine,) = read_results(tmp_path / "mine/evaluation.json")
    arms = measured[1]["arms"]
    assert mine.score("progress/model").value == arms["model"]["progress"]
    assert mine.score("distance/simulator").by_step == tuple(arms["simulator"]["scores"])
    assert mine.score("gap_closed/progress").value == measured[1]["normalised"]["progress"]
    assert mine.rows == ("seed 0", "seed 1", "seed 2")
    found = find_results([tmp_path])
    rows = {row.score: row for row in write_report(tmp_path / "plans.html", found)}
    (test,) = rows["progress/model"].tests
    assert (test.first, test.second, test.episodes) == ("mine", "other", 3)
    assert test.difference < 0
    page = (tmp_path / "plans.html").read_text()
    assert "actions executed" in page
    assert "Goals reached by planning (table 4), with random actions and the true simulator as bounds" in page
    shutil.copytree(measured[0], tmp_path / "fewer")
    measure_planning(
        world, SPACE, replace(QUICK, episodes=2), tmp_path / "fewer", subject=subjects[0], progress=False
    )  # other episodes are another table
    again = compare(distinct(find_results([tmp_path])))
    assert {row.what for row in again} == {"planning, pins = seeds 0 to 2", "planning, pins = seeds 0 to 1"}


def test_going_on_runs_what_is_missing_and_gives_the_same(measured, world, monkeypatch):
    out, report = measured
    before = json.loads((out / "episodes" / "model_00001.json").read_text())
    (out / "episodes" / "model_00001.json").unlink()
    from dila.evaluate import planning

    ran = []
    inner = planning.control
    monkeypatch.setattr(
        planning, "control", lambda e, seeds, *a, **k: (ran.append(list(seeds)), inner(e, seeds, *a, **k))[1]
    )
    again = measure_planning(world, SPACE, QUICK, out, progress=False)
    assert ran == [[1]], "without the one that it was planned beside"
    after = json.loads((out / "episodes" / "model_00001.json").read_text())
    assert after["scores"] == pytest.approx(before["scores"], abs=1e-4)
    assert again["arms"]["model"]["scores"] == pytest.approx(report["arms"]["model"]["scores"], abs=1e-4)
    with pytest.raises(DilaError, match="cost = 'structure'"):
        measure_planning(world, SPACE, replace(QUICK, cost="features"), out, progress=False)


@pytest.mark.parametrize("cost", ["features", "pixels"])
def test_every_cost_plans_and_the_simulator_can_be_seen_by_the_same(cost, world, tmp_path):
    plan = replace(QUICK, episodes=1, cost=cost, steps=2, samples=24, iterations=1, upper="same", size=64)
    report = measure_planning(world, SPACE, plan, tmp_path, progress=False)
    assert set(report["arms"]) == {"random", "model", "simulator"}
    with Image.open(tmp_path / "costs.png") as picture:
        drawn = {colour for _, colour in picture.convert("RGB").getcolors(100_000)}
        assert {ImageColor.getrgb(ink) for ink in INKS[:2]} <= drawn, "the costs of both are of one kind"


@pytest.mark.parametrize(("name", "text", "told"), [
    ("plan.json", "", "cannot be read as JSON .*; choose another folder"),
    ("plan.json", "[]", "does not contain a JSON object"),
    ("episodes/model_00001.json", "", "cannot be read as JSON .*; remove it and run the same command again"),
    ("episodes/random_00000.json", '{"seconds": 1, "scores": []}', "lacks the scores or seconds of an episode"),
    ("episodes/random_00000.json", '{"seconds": 1, "plan_seconds": [1], "scores": [NaN]}', "lacks .* not finite"),
    ("episodes/random_00000.json", '{"scores": [1.0]}', "lacks the scores or seconds of an episode"),
])  # fmt: skip
def test_damaged_files_are_told_of(name, text, told, measured, world, tmp_path):
    shutil.copytree(measured[0], tmp_path / "plan")
    (tmp_path / "plan" / name).write_text(text)
    with pytest.raises(DilaError, match=f"{name} {told}"):
        measure_planning(world, SPACE, QUICK, tmp_path / "plan", progress=False)


def test_what_another_process_plans_is_left_to_it(world, held, tmp_path):
    with held(tmp_path / "out"), pytest.raises(DilaError, match=r"another process works on .*out; wait for it"):
        measure_planning(world, SPACE, QUICK, tmp_path / "out", progress=False)


def test_episodes_of_two_models_are_not_mixed(measured, world, monkeypatch):
    first = next(world.model.parameters())
    with monkeypatch.context() as patch:
        patch.setattr(first, "data", first.data + 1)
        with pytest.raises(DilaError, match=r"contains episodes with model = \S+ \(now \S+\); choose another folder"):
            measure_planning(world, SPACE, QUICK, measured[0], progress=False)
    monkeypatch.setattr(world, "decoder", CellColour(torch.ones(3)))
    with pytest.raises(DilaError, match="contains episodes with decoder = "):
        measure_planning(world, SPACE, QUICK, measured[0], progress=False)
    monkeypatch.undo()
    with pytest.raises(DilaError, match="contains episodes with actions = "):
        measure_planning(world, replace(SPACE, bound=(20.0, 20.0)), QUICK, measured[0], progress=False)


def test_actions_of_another_simulator_are_refused(world, tmp_path):
    with pytest.raises(
        DilaError, match="actions of 2 components, 3 per transition, but pusht-reach takes 2 components, 2"
    ):
        measure_planning(world, replace(SPACE, repeats=3), QUICK, tmp_path, progress=False)


def test_the_bounds_are_the_same_for_models_of_other_data(measured, world, tmp_path):
    careful = replace(SPACE, bound=(20.0, 20.0))
    report = measure_planning(world, careful, replace(QUICK, episodes=2), tmp_path, progress=False)
    for arm in ("random", "simulator"):
        for seed in range(2):
            ours, theirs = (json.loads((at / f"episodes/{arm}_{seed:05d}.json").read_text()) for at in (
                tmp_path, measured[0],
            ))  # fmt: skip
            assert ours["actions"] == theirs["actions"]
    assert report["limits"]["environment"] == {"low": [-150, -150], "high": [150, 150]}
    assert report["limits"]["model"] == {"low": [-20, -20], "high": [20, 20]}
    model = [json.loads(path.read_text())["actions"] for path in tmp_path.glob("episodes/model_*.json")]
    assert torch.tensor(model).abs().max() <= 20


class Robot:
    """An environment of one's own that is looked at and moved, and says nothing of itself."""

    def __init__(self, stride, size):
        inner = make_environment("pusht-reach", stride, size)
        self.reset, self.step = inner.reset, inner.step


def test_an_environment_of_ones_own_that_cannot_be_put_back_has_two_arms(world, tmp_path):
    plan = replace(QUICK, environment=f"{__name__}:Robot", episodes=1, steps=2)
    with pytest.raises(DilaError, match=r":Robot lacks; give --arms random model"):
        measure_planning(world, SPACE, plan, tmp_path, progress=False)
    report = measure_planning(world, SPACE, replace(plan, arms=("random", "model")), tmp_path, progress=False)
    assert set(report["arms"]) == {"random", "model"}
    assert report["limits"]["environment"] == {"low": [-120, -120], "high": [120, 120]}
    assert 0 < report["arms"]["model"]["plan_seconds"] < report["arms"]["model"]["seconds"] * plan.together


@pytest.mark.parametrize("name", ["lapa", "adaworld"])
def test_baselines_plan_in_features_and_have_no_structure(name, tmp_path):
    from dila.baselines.presets import BASELINES
    from dila.interop.models import build

    tiny = BASELINES[name]["tiny"]
    config = replace(tiny, grid=(4, 4), feature_dim=12, width=16, heads=2, real_action_dim=4)
    world = World(build(config).eval(), BlockMean(), CellColour(), stride=0.2, frames=8)
    plan = replace(QUICK, episodes=1, samples=20, iterations=1, steps=2, cost="features", arms=("model",))
    report = measure_planning(world, SPACE, plan, tmp_path / "features", progress=False)
    assert len(report["arms"]["model"]["scores"]) == 3
    told, refused = r"a cost of structure needs a DiLA, not .*; give --cost features or pixels", tmp_path / "structure"
    with pytest.raises(DilaError, match=told):
        measure_planning(world, SPACE, replace(plan, cost="structure", arms=ARMS), refused, progress=False)
    assert not refused.exists(), "so that the same folder takes another cost"


def test_starts_and_goals_of_vp2s_files_are_asked_for_by_a_flag(world, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "goals.hdf5", "w") as file:
        file["data/demo_1/states"] = torch.zeros(2, 76).numpy()
    plan = replace(QUICK, goals=str(tmp_path / "goals.hdf5"))
    with pytest.raises(DilaError, match=r"--episodes 3 exceeds the 1 episodes of .*goals.hdf5"):
        measure_planning(world, SPACE, plan, tmp_path / "many", progress=False)
    with pytest.raises(DilaError, match="robosuite-vp2, not for pusht-reach"):
        measure_planning(world, SPACE, replace(plan, episodes=1), tmp_path / "other", progress=False)


def test_the_summary_is_arithmetic():
    def episode(*scores):
        return {"scores": list(scores), "seconds": 1.0, "plan_seconds": [0.1, 0.3, 0.2]}

    arms = {"random": [episode(0.4, 0.4), episode(0.4, 0.4)], "model": [episode(0.4, 0.2), episode(0.4, 0.04)],
            "simulator": [episode(0.4, 0.0), episode(0.4, 0.0)]}  # fmt: skip
    report = summarise(QUICK, arms)
    assert report["arms"]["model"]["success"] == 0.5
    assert report["arms"]["model"]["progress"] == pytest.approx(0.7)
    assert report["arms"]["model"]["plan_seconds"] == pytest.approx(0.2)
    assert report["normalised"] == {"success": 0.5, "progress": pytest.approx(0.7)}
    ended = summarise(QUICK, arms | {"model": [episode(0.4, 0.2), episode(0.6, 0.04, 0.02)]})
    assert ended["arms"]["model"]["scores"] == pytest.approx([0.5, 0.12, 0.11])
    assert ended["arms"]["model"]["progress_interval"] == [pytest.approx(0.0), 1.0], "clipped: no progress exceeds 1"
    nothing = summarise(QUICK, dict.fromkeys(("random", "model", "simulator"), arms["random"]))
    assert nothing["normalised"]["success"] is None
    assert nothing["normalised_interval"]["success"] is None


def test_the_share_of_the_gap_has_an_interval_over_episodes():
    rng = np.random.default_rng(0)

    def episodes(progress):
        return [{"scores": [1.0, 1 - share], "seconds": 1.0, "plan_seconds": [0.1]} for share in progress]

    def closed(count):
        level = rng.uniform(0, 0.3, count)
        shares = {"random": level, "model": level + 0.35 + rng.normal(0, 0.1, count), "simulator": level + 0.7}
        report = summarise(QUICK, {arm: episodes(its) for arm, its in shares.items()})
        return report["normalised"]["progress"], report["normalised_interval"]["progress"]

    inside = 0
    for _ in range(200):
        share, (low, high) = closed(12)
        assert low < share < high
        inside += low < 0.5 < high
    assert 0.9 < inside / 200 <= 0.99
    assert closed(1)[1] is None
    once = {"random": episodes([0, 0, 0]), "model": episodes([0, 0, 0.5]), "simulator": episodes([0, 0, 1.0])}
    lone = summarise(QUICK, once)
    assert lone["normalised"]["progress"] == 0.5
    assert lone["normalised_interval"]["progress"] is None, "without the third episode there is no gap"


@pytest.mark.parametrize("task", ["pusht-push", "pusht-reach"])
def test_the_gaps_told_in_the_docs_are_those_of_the_committed_episodes(task):
    root = Path(__file__).parents[2]
    stored = json.loads((root / f"benchmarks/results/planning/{task}.json").read_text())["episodes"]
    page = (root / "docs/planning.md").read_text()
    for model in ("dila", "lapa", "adaworld"):
        arms = ([{"scores": stored[arm][seed]} for seed in stored[model]] for arm in ("random", model, "simulator"))
        share, (low, high) = gap_closed("progress", *arms)
        told = f"**{share:.2f}**" if model == "dila" else f"{share:.2f}"
        assert f"| {told} ({low:.2f} to {high:.2f}) |" in page


def strict(path):
    """JSON as the standard has it, without Python's NaN and Infinity."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{path} contains {name}"))


class Settled(GoalEnvironment):
    """Push-T whose goal is the start in every even episode."""

    def __init__(self, stride, size):
        super().__init__(PushTBody(), Task(self._stage, reach_distance), 2, size)

    def reset(self, *, seed=None, options=None):
        self.number = seed
        return super().reset(seed=seed, options=options)

    def _stage(self, body, rng):
        body.reset(rng)
        start = body.snapshot()
        return Staged(start, start if self.number % 2 == 0 else start._replace(agent=((256.0, 400.0), (0.0, 0.0))))


def test_an_episode_that_starts_at_its_goal_has_no_progress(world, tmp_path):
    plan = replace(QUICK, environment=f"{__name__}:Settled", steps=2, episodes=1, arms=("random", "simulator"))
    measure_planning(world, SPACE, plan, tmp_path, progress=False)
    report = strict(tmp_path / "report.json")
    assert report["arms"]["random"]["progress"] is None
    assert report["arms"]["random"]["success"] == 1.0
    assert not (tmp_path / "costs.png").exists(), "the simulator planned by its own score"
    measure_planning(world, SPACE, replace(plan, episodes=2, arms=ARMS), tmp_path, progress=False)
    report = strict(tmp_path / "report.json")
    assert report["arms"]["simulator"]["progress"] > 0
    assert all(strict(path) for path in tmp_path.glob("episodes/*.json"))


def test_planners_take_samples_and_iterations():
    for name in PLANNERS:
        search = replace(QUICK, planner=name, arms=("random", "model"), samples=40, iterations=3).search
        assert (search.samples, search.iterations) == (40, 3)


def test_a_component_without_deviation_stays_where_plans_begin(world, tmp_path):
    plan = replace(QUICK, episodes=1, arms=("random", "model"), std=(0.5, 0.0))
    measure_planning(world, SPACE, plan, tmp_path, progress=False)
    for arm in plan.arms:
        x, y = zip(*json.loads((tmp_path / "episodes" / f"{arm}_00000.json").read_text())["actions"], strict=True)
        assert any(x)
        assert not any(y)


def test_curves_are_drawn(tmp_path):
    write_curves(tmp_path / "c.png", {"a": [1.0, 0.5, 0.2], "b": [1.0, 0.9]}, 0.05)
    write_curves(tmp_path / "boards.png", {"a": [1.0, 0.5, 0.2], "b": [1.0, 0.9]}, 0.05, "boards")
    with Image.open(tmp_path / "c.png") as picture, Image.open(tmp_path / "boards.png") as boards:
        assert len(picture.convert("RGB").getcolors(100_000)) > 4
        changed = ImageChops.difference(picture.convert("RGB"), boards.convert("RGB")).getbbox()
        assert changed is not None
        assert changed[3] < MARGIN  # the axis's unit above


def test_a_curve_of_one_value_has_a_mark_and_a_long_name_its_room(tmp_path):
    write_curves(tmp_path / "short.png", {"a": [1.0]}, 0.05)
    write_curves(tmp_path / "long.png", {"a model with a name of many words": [1.0, 0.5]}, 0.05)
    with Image.open(tmp_path / "short.png") as short, Image.open(tmp_path / "long.png") as long:
        around = np.asarray(short.convert("RGB"))[SIZE[1] - MARGIN - 300 - 5 : SIZE[1] - MARGIN - 300 + 6, 46:55]
        assert (around == ImageColor.getrgb(INKS[0])).all(2).sum() > 40
        assert short.size == SIZE
        assert long.size[0] > SIZE[0]
        assert (np.asarray(long.convert("L"))[:, -4:] == 255).all()


@pytest.mark.parametrize(
    ("top", "ticks"), [(0.39, [0, 0.1, 0.2, 0.3, 0.4]), (15, [0, 5, 10, 15]), (1, [0, 0.25, 0.5, 0.75, 1])]
)
def test_axes_have_round_numbers(top, ticks):
    assert _ticks(top) == pytest.approx(ticks)
