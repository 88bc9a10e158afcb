"""Environments begin where they say, come back to where they were, and know how far the goal is."""

import importlib.util
import os

import numpy as np
import pytest
import torch

from dila.errors import DilaError
from dila.planning import env_pusht
from dila.planning.environment import SUCCESS, Environment, GoalEnvironment, Simulated, Staged, Task
from dila.planning.environments import ENVIRONMENTS, held_steps, make_environment

PACKAGES = {"pusht": "gym_pusht", "pointmaze": "gymnasium_robotics", "fetch": "gymnasium_robotics",
            "robosuite": "robosuite", "robodesk": "robodesk"}  # fmt: skip
SLOW = {name for name in ENVIRONMENTS if name.startswith(("robosuite", "robodesk", "fetch"))} - {"robodesk-push-red"}
pytestmark = pytest.mark.filterwarnings("ignore")  # of the simulators' own packages
CHOSEN = [os.environ["DILA_TEST_ENVIRONMENT"]] if "DILA_TEST_ENVIRONMENT" in os.environ else list(ENVIRONMENTS)


@pytest.fixture(scope="module", params=[
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CHOSEN
])  # fmt: skip
def environment(request):
    package = PACKAGES[request.param.split("-")[0]]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    made = make_environment(request.param, 0.2, 64)
    made.name = request.param
    yield made
    made.close()


def some_actions(environment, count=4):
    rng = np.random.default_rng(0)
    low, high = environment.limits.low.numpy(), environment.limits.high.numpy()
    return [rng.uniform(low, high).astype(np.float32) for _ in range(count)]


def test_it_has_gymnasiums_verbs_and_can_be_put_back(environment):
    assert isinstance(environment, Environment)
    assert isinstance(environment, Simulated)


def test_it_begins_away_from_its_goal_and_the_same_for_a_seed(environment):
    pictures, infos = zip(*(environment.reset(seed=seed) for seed in (1, 1, 2)), strict=True)
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(infos[0]["goal"], infos[1]["goal"])
    assert not torch.equal(pictures[0], pictures[2])
    assert not torch.equal(pictures[0], infos[0]["goal"])
    assert pictures[0].shape == (3, 64, 64)
    assert all(info["score"] > 2 * SUCCESS for info in infos)


def test_the_same_actions_from_the_same_state_lead_to_the_same_facts(environment):
    environment.reset(seed=3)
    state, ends = environment.state(), []
    for _ in range(2):
        environment.restore(state)
        for action in some_actions(environment):
            environment.advance(action)
        ends.append(environment.body.facts())
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-9)
    environment.restore(state)
    assert not np.allclose(environment.body.facts(), ends[0], atol=1e-4)


def test_a_step_tells_the_score(environment):
    _, info = environment.reset(seed=4)
    picture, reward, *over, after = environment.step(np.zeros(len(environment.limits.low)))
    assert picture.dtype == torch.uint8
    assert reward == -after["score"]
    assert after["is_success"] == (after["score"] < SUCCESS)
    assert over == [False, False]
    assert after["score"] == pytest.approx(info["score"], abs=0.2)


def test_at_the_goal_the_score_is_nothing(environment):
    staged = None
    seed = 0
    while staged is None:
        staged = environment.task.stage(environment.body, np.random.default_rng(seed))
        seed += 1
    environment.body.restore(staged.goal)
    goal = environment.body.facts()
    assert environment.task.score(goal, goal) == 0


def test_a_script_has_led_to_the_goal(environment):
    """What moved is not all that differs: the hand that moved it has come along."""
    if not environment.name.startswith("robodesk"):
        pytest.skip("the others' goals are a script's by `driven`")
    environment.reset(seed=5)
    start, arm = environment.body.facts(), slice(3, 12)
    assert np.abs(start[arm] - environment.goal[arm]).max() > 0.05
    np.testing.assert_array_equal(start[-9:], environment.goal[-9:])


@pytest.mark.skipif(importlib.util.find_spec("gym_pusht") is None, reason="gym_pusht is not installed")
class TestPushT:
    def test_a_step_is_the_simulators_own(self):
        """What `act` leaves out of the simulator's step is its reward alone."""
        ours, theirs = env_pusht.PushTBody(), env_pusht.PushTBody()
        for body in (ours, theirs):
            body.reset(np.random.default_rng(5))
        for action in np.random.default_rng(0).uniform(-100, 100, (12, 2)):
            target = np.clip(theirs.facts()[:2] + action, 0, 512)
            theirs.env.step(target)
            ours.act(action)
            np.testing.assert_allclose(ours.facts(), theirs.facts(), atol=1e-6)

    def test_its_corners_are_those_of_the_block(self):
        body = env_pusht.PushTBody()
        body.reset(np.random.default_rng(6))
        shown = body.env.unwrapped.get_keypoints(body.env.unwrapped._block_shapes)
        ours = env_pusht._corners(body.facts()[2:])
        assert sorted(np.round(shown, 4).tolist()) == sorted(np.round(ours, 4).tolist())

    def test_a_push_must_push_and_a_reach_must_not(self):
        for name, moves in (("pusht-push", True), ("pusht-reach", False)):
            environment = make_environment(name, 0.2)
            environment.reset(seed=0)
            way = env_pusht.keypoint_distance(environment.body.facts(), environment.goal)
            assert (way > SUCCESS) == moves

    def test_a_held_action_moves_the_agent_steadily(self):
        environment = make_environment("pusht-reach", 0.2)
        environment.reset(seed=0)
        environment.body.env.unwrapped.agent.position = (200, 200)
        environment.body.env.unwrapped.block.position = (400, 400)
        places = []
        for _ in range(4):
            environment.advance(np.array([25.0, 0.0]))
            places.append(environment.body.facts()[0])
        np.testing.assert_allclose(np.diff(places)[1:], 20, atol=1.5)


class Counter:
    """A body that counts its raw steps."""

    fps, limits = 10, None

    def __init__(self):
        self.steps = 0

    def act(self, action):
        self.steps += 1

    def facts(self):
        return np.array([float(self.steps)])

    def snapshot(self):
        return self.steps

    def restore(self, snapshot):
        self.steps = snapshot

    def picture(self, size):
        return torch.zeros(3, size, size, dtype=torch.uint8)

    def reset(self, rng):
        self.steps = 0

    def close(self):
        pass


def test_an_action_is_held_for_its_raw_steps():
    task = Task(lambda body, rng: Staged(0, 6), lambda now, goal: abs(float(now[0] - goal[0])))
    environment = GoalEnvironment(Counter(), task, repeats=3, size=16)
    _, info = environment.reset(seed=0)
    assert info["score"] == 6
    assert environment.fps == pytest.approx(10 / 3)
    assert environment.step(np.zeros(1))[4]["score"] == 3
    assert environment.step(np.zeros(1))[4]["is_success"] is True


def test_a_script_that_never_works_is_told():
    with pytest.raises(DilaError, match="in 50 attempts from seed 7"):
        GoalEnvironment(Counter(), Task(lambda body, rng: None, lambda a, b: 0.0)).reset(seed=7)


def test_a_stride_that_does_not_fit_is_refused():
    assert held_steps("it", Counter(), 0.3) == 3
    with pytest.raises(
        DilaError, match=r"stride of 0.25 s is not a multiple of a step of it, which has 10 steps per second"
    ):
        held_steps("it", Counter(), 0.25)
    with pytest.raises(DilaError, match="there is no environment 'chess'; choose one of pusht-push"):
        make_environment("chess", 0.2)


def test_an_environment_of_ones_own_is_made_by_its_address():
    made = make_environment(f"{__name__}:Own", 0.25, 32)
    assert (type(made), made.stride, made.size) == (Own, 0.25, 32)


@pytest.mark.parametrize(("address", "told"), [
    ("not_there:make", r"not_there:make cannot be imported \(No module named 'not_there'\); give MODULE:FUNCTION of a"),
    (f"{__name__}:Nothing", r"has no attribute 'Nothing'\); give MODULE:FUNCTION"),
    (":make", r"Empty module name\); give MODULE:FUNCTION"),
    (f"{__name__}:some_size", "some_size returned an object of type int, which lacks reset or step; see 'Your own"),
])  # fmt: skip
def test_an_address_of_no_environment_is_refused(address, told):
    with pytest.raises(DilaError, match=told):
        make_environment(address, 0.2)


def test_vp2s_tasks_are_of_no_environment_of_ones_own():
    with pytest.raises(DilaError, match=":Own; omit the flag"):
        make_environment(f"{__name__}:Own", 0.2, tasks=[])


class Own:
    def __init__(self, stride, size):
        self.stride, self.size = stride, size

    def reset(self, *, seed=None, options=None):
        raise NotImplementedError

    def step(self, action):
        raise NotImplementedError


def some_size(stride, size):
    return size


def test_an_environment_of_ones_own_is_named_with_its_module_in_full(monkeypatch):
    monkeypatch.setitem(ENVIRONMENTS, "nine", ("dila.planning.env_pusht:PushTBody", "elsewhere:NINE"))
    pytest.importorskip("gym_pusht")
    with pytest.raises(ModuleNotFoundError, match="elsewhere"):
        make_environment("nine", 0.2)
