"""Planning as a function: a goal in, what came of it out; no browser."""

import sys

import pytest
import torch

pytest.importorskip("gym_pusht", reason="the extra pusht is not installed")

from dila.demo.plan import SIZE, Goal, Hands, _told, goal_at, goal_like, learn_hands, plan_to, start_picture
from dila.errors import DilaError, MissingExtra
from dila.planning.mpc import Loop

SHORT = Loop(steps=2, horizon=2)


@pytest.fixture(scope="module")
def hands(box):
    told = []
    made = learn_hands(box, lambda share, what: told.append(share), episodes=24)
    assert told == sorted(told)
    assert len(told) == 24
    return made


def test_the_agent_alone_is_put_where_the_click_was():
    start, goal = start_picture(3).int(), goal_at(3, 0.8, 0.8)
    assert goal.place == pytest.approx((0.8 * 512, 0.8 * 512))
    changed = (goal.picture.int() - start).abs().sum(0) > 60
    around = changed[int(0.74 * SIZE) : int(0.86 * SIZE), int(0.74 * SIZE) : int(0.86 * SIZE)]
    assert around.any()
    assert changed.sum() < 0.03 * SIZE**2  # the agent here, the agent there, and nothing else


def test_the_block_is_no_place_for_the_agent():
    block = (start_picture(3).int() - torch.tensor([144, 158, 178])[:, None, None]).abs().sum(0) < 30
    down, right = (block.nonzero()[len(block.nonzero()) // 2] / SIZE).tolist()
    with pytest.raises(DilaError, match="click on a free place"):
        goal_at(3, right, down)


def test_real_actions_are_learned_from_play_and_the_model_stays_as_it_is(box, hands):
    assert hands.r2 > 0.1
    assert hands.repeats == 2
    assert box.model.action_encoder is None
    assert hands.encoder(torch.zeros(1, 3, 2)).shape == (1, 3, 32)


def test_what_was_imagined_what_happened_and_how_far_it_is(box, hands):
    told = []
    made = plan_to(box, hands, goal_at(3, 0.2, 0.2), lambda share, what: told.append(share), SHORT)
    assert told == [0, 0.5, 1.0]
    assert list(made.rows) == ["goal", "true", "imagined one step before", "end of each plan"]
    assert {tuple(clip.shape) for clip in made.rows.values()} == {(2, 3, SIZE, SIZE)}
    planned, random = made.curves["planned"], made.curves["random"]
    assert len(planned) == len(random) == 3
    assert planned[0] == random[0] > 0.1
    assert planned[-1] < planned[0] - 0.05
    assert made.line == 0.05
    assert "boards from its goal" in made.said
    assert "not reached" in made.said


def test_the_step_that_reached_is_the_first_below_success_and_not_the_nearest():
    goal = Goal(3, torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), (0.0, 0.0))
    said = _told(goal, {"planned": [0.4, 0.04, 0.3, 0.01], "random": [0.4, 0.4]})
    assert "came within 0.010: goal reached at step 1." in said
    assert "goal not reached (below 0.05)." in _told(goal, {"planned": [0.4, 0.05], "random": [0.4, 0.4]})


def test_a_picture_is_a_goal_whose_distance_is_told_in_structure(box, hands, clips):
    goal = goal_like(3, clips[1][4])
    assert goal.picture.shape == (3, SIZE, SIZE)
    made = plan_to(box, hands, goal, loop=SHORT)
    assert made.curves["planned"][0] == 1.0
    assert made.line is None
    assert "distance in structure" in made.said


def test_a_model_that_knows_nothing_of_push_t_is_refused(box, monkeypatch):
    monkeypatch.setattr(box, "infer", lambda frames: torch.randn(len(frames) - 1, 32))
    with pytest.raises(DilaError, match="trained on Push-T"):
        learn_hands(box, episodes=8)


def test_a_model_without_structure_is_refused(box, hands, monkeypatch):
    monkeypatch.setattr(box, "model", torch.nn.Linear(1, 1))
    with pytest.raises(DilaError, match="needs a DiLA"):
        plan_to(box, Hands(*hands), Goal(3, torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)))


def test_without_the_simulator_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gym_pusht", None)
    with pytest.raises(MissingExtra, match=r"dila-wm\[pusht\]"):
        start_picture(3)
