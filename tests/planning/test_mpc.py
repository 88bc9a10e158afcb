"""The loop: what a perfect model reaches, what blind actions do not, and what is kept of both."""

import numpy as np
import pytest
import torch

from dila.errors import DilaError
from dila.planning.cem import icem
from dila.planning.cost import Features, Pixels, Score
from dila.planning.dynamics import Simulation
from dila.planning.environment import SUCCESS
from dila.planning.mpc import Loop, control
from dila.planning.mppi import MPPI
from dila.planning.planner import Blind, Limits

LOOP = Loop(steps=12, horizon=4, context=2)


class Plane:
    """A point on a plane, moved by its action; its score is the distance to a place, its picture shows where it is."""

    fps, limits = 5, Limits.unit(2)

    def reset(self, *, seed=None, options=None):
        rng = np.random.default_rng(seed)
        self.place, self.goal = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2)
        return self.picture(), {"goal": self._at(self.goal), "score": self.score()}

    def state(self):
        return self.place.copy()

    def restore(self, state):
        self.place = state.copy()

    def advance(self, action):
        self.place = self.place + 0.2 * np.asarray(action)

    def score(self):
        return float(np.linalg.norm(self.place - self.goal))

    def picture(self):
        return self._at(self.place)

    def step(self, action):
        self.advance(action)
        return self.picture(), -self.score(), False, False, {"score": self.score()}

    @staticmethod
    def _at(place):
        shades = torch.from_numpy(np.clip(128 + 60 * place, 0, 255).astype(np.uint8))
        return torch.stack([shades[0].expand(16, 16), shades[1].expand(16, 16), torch.zeros(16, 16, dtype=torch.uint8)])


def run(planner, seeds=(0, 1, 2, 3), **changes):
    options = {
        "dynamics": Simulation(),
        "cost": lambda goals: Score(),
        "limits": Limits.unit(2),
        "loop": LOOP,
    } | changes
    return control([Plane() for _ in seeds], seeds, planner, **options)


@pytest.mark.parametrize(
    "planner", [MPPI(samples=40, iterations=2, gamma=4.0, relative=True), icem(samples=40, elites=6, iterations=2)]
)
def test_a_perfect_model_reaches_every_goal_and_blind_actions_do_not(planner):
    assert all(min(episode.scores) < SUCCESS for episode in run(planner))
    assert sum(min(episode.scores) < SUCCESS for episode in run(Blind())) <= 1


def test_seeds_make_the_episode():
    planner = MPPI(samples=10, relative=True, gamma=3.0)
    first, again, other = run(planner), run(planner), run(planner, seeds=(4, 5, 6, 7))
    assert all(a.scores == b.scores for a, b in zip(first, again, strict=True))
    assert first[0].scores != other[0].scores


def test_an_episode_holds_what_happened():
    (episode,) = run(MPPI(samples=10, relative=True, gamma=3.0), seeds=(3,))
    assert episode.frames.shape == (LOOP.steps + 1, 3, 16, 16)
    assert len(episode.scores) == LOOP.steps + 1
    assert len(episode.costs) == LOOP.steps
    assert episode.actions.shape == (LOOP.steps, 2)
    assert episode.imagined is None
    plane = Plane()
    plane.reset(seed=3)
    for action, score in zip(episode.actions, episode.scores[1:], strict=True):
        plane.advance(action.numpy())
        assert plane.score() == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("planner", [Blind(), MPPI(samples=10, relative=True), icem(samples=20, elites=4)])
def test_an_episode_is_the_same_alone_and_beside_others(planner):
    beside, (alone,) = run(planner, seeds=(5, 7)), run(planner, seeds=(7,))
    torch.testing.assert_close(beside[1].actions, alone.actions)


def test_several_actions_of_a_plan_are_done_before_the_next():
    asked = []

    class Counted(Blind):
        def plan(self, cost, horizon, limits, *, warm=None, **options):
            asked.append(warm)
            return super().plan(cost, horizon, limits, warm=warm, **options)

    (episode,) = run(Counted(), seeds=(0,), loop=Loop(7, 4, execute=3))
    assert (len(episode.actions), len(episode.frames), len(asked)) == (7, 8, 3)
    once = run(Blind(), seeds=(0,), loop=Loop(1, 4))[0].actions
    torch.testing.assert_close(episode.actions[0], once[0])
    # The planner itself goes one step on: two are gone before, the last stands in for them.
    torch.testing.assert_close(asked[1].actions[0, 0], episode.actions[2])
    torch.testing.assert_close(asked[1].actions[0, 2:], asked[1].actions[0, 1].expand(2, -1))
    with pytest.raises(DilaError, match="execute = 5 must be from 1 to horizon = 4, the length of a plan"):
        Loop(3, 4, execute=5)


def test_what_a_plan_expects_is_told_at_each_of_its_actions(imagination):
    (episode,) = control(
        [Three()], (0,), Blind(), imagination, lambda goals: Features(imagination.see(goals[:, None])),
        Limits.unit(3), Loop(3, 3, execute=2), show=imagination,
    )  # fmt: skip
    first, second, third = episode.imagined
    torch.testing.assert_close(second[[0, 1, 2]], first[[1, 2, 2]])
    assert not torch.equal(third[0], first[2])


class Ends(Plane):
    """The same, over when so many steps are done: it breaks if it is asked for more."""

    def __init__(self, steps, verdict=(True, False)):
        self.steps, self.verdict = steps, verdict

    def step(self, action):
        assert self.steps, "stepped after its end"
        self.steps -= 1
        picture, reward, _, _, info = super().step(action)
        return picture, reward, *((False, False) if self.steps else self.verdict), info


@pytest.mark.parametrize("verdict", [(True, False), (False, True)])
def test_an_episode_ends_where_its_environment_says_so_and_the_others_go_on(verdict):
    loop, planner, goals = Loop(6, 3, execute=2), icem(samples=20, elites=4), []
    options = planner, Simulation(), lambda made: (goals.append(len(made)), Pixels(made[:, None]))[1], Limits.unit(2)
    ended, other = control([Ends(3, verdict), Plane()], (3, 4), *options, loop)
    assert goals == [2, 1]
    assert (len(ended.frames), len(ended.scores), len(ended.actions), len(ended.costs)) == (4, 4, 3, 2)
    (alone,) = control([Plane()], (4,), *options, loop)
    torch.testing.assert_close(other.actions, alone.actions)
    assert len(control([Ends(1), Ends(2)], (3, 4), *options, loop)[1].frames) == 3


class Told(Plane):
    """The same, telling no more than some things."""

    def __init__(self, reset=("goal", "score"), step=("score",)):
        self.told = reset, step

    def reset(self, **options):
        picture, info = super().reset(**options)
        return picture, {name: info[name] for name in self.told[0]}

    def step(self, action):
        *seen, info = super().step(action)
        return *seen, {name: info[name] for name in self.told[1]}


def test_a_score_may_be_missing_but_no_goal_nor_half_of_the_scores():
    (episode,) = control([Told(["goal"], [])], (3,), Blind(), Simulation(), lambda goals: Score(), Limits.unit(2), LOOP)
    assert episode.scores == []
    for environment, told in (
        (Told(["score"]), "reset of Told returned no goal; add its picture as 'goal'"),
        (Told(step=[]), "Told returned a score in only one of reset and step"),
        (Told(["goal"]), "Told returned a score in only one of reset and step"),
    ):
        with pytest.raises(DilaError, match=told):
            control([environment], (3,), Blind(), Simulation(), lambda goals: Score(), Limits.unit(2), LOOP)


@pytest.mark.parametrize("score", [float("inf"), float("nan"), None, "far"])
@pytest.mark.parametrize(("good", "where"), [(0, "reset"), (4, "step 2")])
def test_a_score_that_is_no_finite_number_is_refused_where_it_is_returned(score, good, where):
    class Lost(Plane):
        told = 0

        def score(self):
            self.told += 1
            return super().score() if self.told <= good else score

    with pytest.raises(DilaError, match=f"{where} of Lost returned the score {score!r}; return the distance"):
        control([Lost()], (3,), Blind(), Simulation(), lambda goals: Score(), Limits.unit(2), LOOP)


def test_a_goal_that_is_a_clip_moves_on_with_the_episode():
    """Of a demonstration that leads away and back, each step is compared with its own frame."""
    there = 0.2 * torch.tensor([1.0, 1, 1, 1, -1, -1, -1, -1]).cumsum(0)
    demonstrated = torch.stack([torch.as_tensor(Plane._at(np.array([x, x]))) for x in there.tolist()])

    class Centred(Plane):
        def reset(self, *, seed=None, options=None):
            _, info = super().reset(seed=seed)
            self.place = np.zeros(2)
            return self.picture(), info

    (episode,) = control(
        [Centred()], (0,), icem(samples=40, elites=8, iterations=3), Simulation(),
        lambda goals: Pixels(demonstrated[None], 16), Limits.unit(2), Loop(8, 2, 1),
    )  # fmt: skip
    apart = (episode.frames[1:].float() - demonstrated.float()).abs().amax((1, 2, 3))
    assert (apart <= 12).all(), "an action is worth 12"


def test_a_model_plans_from_pictures_and_shows_what_it_expects(imagination):
    """With an awake model of no skill: that everything is there and has its shape."""
    episodes = control(
        [Three(), Three()], (0, 1), MPPI(samples=6, relative=True), imagination,
        lambda goals: Features(imagination.see(goals[:, None])), Limits.unit(3), Loop(3, 4, 2), show=imagination,
    )  # fmt: skip
    assert episodes[1].imagined.shape == (3, 4, 4, 4, 12)
    assert len(episodes[0].costs) == 3


class Three(Plane):
    """The same under actions of three numbers, as the tests' model takes."""

    def advance(self, action):
        super().advance(np.asarray(action)[:2])


class Tensors(Plane):
    """The same, drawn over one and the same tensor."""

    def __init__(self):
        self.shown = torch.zeros(3, 16, 16, dtype=torch.uint8)

    def picture(self):
        self.shown[:] = torch.as_tensor(super().picture())
        return self.shown


class Arrays(Tensors):
    """The same in NumPy, as some of Gymnasium do."""

    def picture(self):
        return super().picture().numpy()

    @staticmethod
    def _at(place):
        return np.asarray(Plane._at(place))


class Halved(Plane):
    """The same, changing the actions that it is handed in place, to the same end."""

    def advance(self, action):
        action *= 0.5
        super().advance(2 * action)


@pytest.mark.parametrize("kind", [Tensors, Arrays, Halved])
def test_what_the_loop_and_an_environment_hand_over_is_each_ones_own(kind):
    options = Simulation(), lambda goals: Pixels(goals[:, None]), Limits.unit(2), LOOP
    theirs, ours = (control([kind()], (3,), MPPI(samples=6), *options)[0] for kind in (kind, Plane))
    assert torch.equal(theirs.frames, ours.frames)
    assert torch.equal(theirs.goal, ours.goal)
    assert torch.equal(theirs.actions, ours.actions)
    assert theirs.costs == ours.costs


def test_what_is_no_picture_is_refused():
    class Transposed(Plane):
        def picture(self):
            return super().picture().numpy().transpose(1, 2, 0)

    class Blank(Plane):
        def picture(self):
            return None

    for kind, told in ((Transposed, r"uint8 \[16, 16, 3\]"), (Blank, "NoneType")):
        with pytest.raises(DilaError, match=f"must be a tensor or NumPy array of uint8 3 Y X, not {told}"):
            control([kind()], (3,), Blind(), Simulation(), lambda goals: Score(), Limits.unit(2), LOOP)


def test_bad_settings_are_refused():
    with pytest.raises(DilaError, match="2 seeds for 1 environments"):
        control([Plane()], (0, 1), Blind(), Simulation(), lambda goals: Score(), Limits.unit(2), LOOP)
    with pytest.raises(DilaError, match="horizon = 0"):
        Loop(horizon=0)

    class Once:
        def reset(self, **options):
            picture = torch.zeros(3, 16, 16, dtype=torch.uint8)
            return picture, {"goal": picture, "score": 1.0}

        def step(self, action):
            raise AssertionError

    with pytest.raises(DilaError, match="Once lacks state, restore, advance, picture or score"):
        control([Once()], (0,), MPPI(), Simulation(), lambda goals: Score(), Limits.unit(2), LOOP)
