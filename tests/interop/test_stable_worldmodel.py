"""The contract of stable-worldmodel, by duck typing: shapes, sense, and the context read once."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from einops import reduce

from dila.errors import DilaError
from dila.imagine.world import World
from dila.interop.actions import ActionSpace
from dila.interop.stable_worldmodel import cost_model
from dila.planning.dynamics import Imagination

BATCH, SAMPLES, HISTORY, HORIZON = 2, 5, 3, 4
SPACE = ActionSpace(("x",), 3, (), (2.0,), (4.0,), (9.0,), 0.5, 0.5)


class BlockMean:
    """Fake encoder: the mean colour of each cell, four times over; counts frames."""

    grid, feature_dim, frames = (4, 4), 12, 0

    def encode(self, o):
        x = o.float() / 255 if o.dtype == torch.uint8 else o
        self.frames += x.shape[0] * x.shape[1]
        return reduce(x, "b t c (h p) (w q) -> b t h w c", "mean", h=4, w=4).repeat(1, 1, 1, 1, 4) - 0.5

    def config(self):
        return {"name": "block-mean"}


@pytest.fixture
def imagination(small_config, awake):
    model = awake(replace(small_config, grid=(4, 4), feature_dim=12, real_action_dim=3))
    return Imagination(World(model, BlockMean(), stride=0.2, frames=6))


@pytest.fixture
def info():
    """As the library's planning policy hands it over: one history for all candidates, NaN before the first action."""
    pixels = torch.rand(BATCH, 1, HISTORY, 3, 16, 16).expand(-1, SAMPLES, -1, -1, -1, -1)
    goal = torch.rand(BATCH, 1, 1, 3, 16, 16).expand(-1, SAMPLES, -1, -1, -1, -1)
    action = torch.full((BATCH, SAMPLES, HISTORY, 3), torch.nan)
    return {"pixels": pixels, "goal": goal, "action": action, "action_history": action[:, :, :-1]}


@pytest.fixture
def candidates():
    return torch.randn(BATCH, SAMPLES, HORIZON, 3)


@pytest.mark.parametrize("space", ["structure", "features"])
def test_costs_are_one_number_a_candidate_and_those_of_the_rollout(space, imagination, info, candidates):
    model = cost_model(imagination, SPACE, space)
    costs = model.get_cost(info, candidates)
    assert costs.shape == (BATCH, SAMPLES)
    assert costs.isfinite().all()
    rolled = model.rollout(info, candidates)
    assert rolled["predicted_emb"].shape[:3] == (BATCH, SAMPLES, HISTORY + HORIZON)
    torch.testing.assert_close(model.criterion(rolled), costs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(rolled), costs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rolled["predicted_emb"][:, 2, :HISTORY], rolled["emb"])


@pytest.mark.parametrize("over", ["sum", "last"])
def test_the_objective_counts_frames_as_the_costs_do(over, imagination, info, candidates):
    model = cost_model(Imagination(imagination.world, over=over), SPACE)
    given = model.criterion(model.rollout(info, candidates))
    torch.testing.assert_close(given, model.get_cost(info, candidates), atol=1e-5, rtol=1e-4)


def test_encode_adds_and_takes_nothing_away(imagination, info):
    made = cost_model(imagination, SPACE).encode(info)
    assert info.keys() < made.keys()
    assert made["emb"].shape[:2] == (BATCH, HISTORY)
    assert made["goal_emb"].shape[:2] == (BATCH, 1)


@pytest.mark.parametrize("verb", ["get_cost", "rollout"])
@pytest.mark.parametrize("space", ["structure", "features"])
def test_the_history_is_read_once_for_all_candidates(verb, space, imagination, info, candidates):
    getattr(cost_model(imagination, SPACE, space), verb)(info, candidates)
    assert imagination.world.encoder.frames == BATCH * (HISTORY + 1)


@pytest.mark.parametrize("verb", ["get_cost", "rollout"])
def test_candidates_wait_their_turn(verb, imagination, info, candidates, monkeypatch):
    model, moved = imagination.world.model, []
    inner = model.move
    monkeypatch.setattr(model, "move", lambda s, z, past: (moved.append(len(z)), inner(s, z, past))[1])
    whole = cost_model(imagination, SPACE)
    parts = cost_model(Imagination(imagination.world, chunk=2 * BATCH), SPACE)
    expected, given = (getattr(each, verb)(info, candidates) for each in (whole, parts))
    if verb == "rollout":
        expected, given = expected["predicted_emb"], given["predicted_emb"]
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-4)
    assert moved == [BATCH * SAMPLES] * HORIZON + [4] * HORIZON + [4] * HORIZON + [2] * HORIZON


def test_bytes_and_floats_and_histories_without_candidates_mean_the_same(imagination, info, candidates):
    model = cost_model(imagination, SPACE)
    plain = {name: (info[name][:, 0] * 255).round().byte() for name in ("pixels", "goal")}
    torch.testing.assert_close(model.get_cost(plain, candidates), model.get_cost(info, candidates))


def test_standardised_candidates_are_put_into_the_datas_units(imagination, info, candidates):
    raw = cost_model(imagination, SPACE).get_cost(info, candidates * 4 + 2)
    torch.testing.assert_close(cost_model(imagination, SPACE, standardised=True).get_cost(info, candidates), raw)


@pytest.mark.parametrize("space", ["structure", "features"])
def test_costs_and_the_objective_have_the_same_gradients_for_gradient_solvers(space, imagination, info, candidates):
    candidates.requires_grad_(True)
    model = cost_model(imagination, SPACE, space)
    costs = model.get_cost(info, candidates), model.criterion(model.rollout(info, candidates))
    of_cost, of_objective = (torch.autograd.grad(cost.sum(), candidates)[0] for cost in costs)
    assert of_cost.abs().sum() > 0
    torch.testing.assert_close(of_objective, of_cost, atol=1e-6, rtol=1e-3)
    assert not model.rollout(info, candidates.detach())["predicted_emb"].requires_grad


def test_what_does_not_fit_is_refused_in_a_sentence(imagination, info, candidates):
    model = cost_model(imagination, SPACE)
    with pytest.raises(DilaError, match=r"A = 3, not .*action_block"):
        model.get_cost(info, candidates[..., :2])
    with pytest.raises(DilaError, match="remove the normalisation"):
        model.get_cost(info | {"pixels": info["pixels"] * 4 - 2}, candidates)
    with pytest.raises(DilaError, match=r"should be in 0\.\.1"):
        model.get_cost(info | {"pixels": torch.full(info["pixels"].shape, torch.nan)}, candidates)
    with pytest.raises(DilaError, match="has no key 'goal'; its keys are pixels"):
        model.get_cost({"pixels": info["pixels"]}, candidates)


def test_its_own_solver_plans_with_it(imagination, info):
    solvers = pytest.importorskip("stable_worldmodel.solver")
    gymnasium = pytest.importorskip("gymnasium")
    config = pytest.importorskip("stable_worldmodel.policy").PlanConfig(horizon=HORIZON, receding_horizon=1)
    solver = solvers.MPPISolver(cost_model(imagination, SPACE), num_samples=SAMPLES, n_steps=2, topk=2)
    solver.configure(action_space=gymnasium.spaces.Box(-1, 1, (BATCH, 3)), n_envs=BATCH, config=config)
    single = {name: value[:, 0] for name, value in info.items()}
    assert solver.solve(single)["actions"].shape == (BATCH, HORIZON, 3)


@pytest.mark.skipif(importlib.util.find_spec("gym_pusht") is None, reason="gym_pusht is not installed")
def test_the_example_runs_and_is_short(first_look, tmp_path, capsys):
    from dila.train.adapt import Adaptation, adapt

    path = Path(__file__).parents[2] / "examples" / "stable_worldmodel.py"
    source = path.read_text()
    assert len(source.splitlines()) <= 60
    how = Adaptation(trajectories=6, fit_steps=20, steps=0, relative=("agent_x", "agent_y"))
    made = adapt(
        first_look.folder / "run", first_look.folder / "pusht", tmp_path, how,
        cache_dir=first_look.folder / "features", progress=False,
    )  # fmt: skip
    names = {"__name__": "example"}
    exec(compile(source, str(path), "exec"), names)
    names["main"](str(made.folder), steps=2)
    assert "distance to the goal" in capsys.readouterr().out
