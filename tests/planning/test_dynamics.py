"""Candidates in a model: the same costs however they are computed, and nothing computed twice or in vain."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dila.baselines.presets import BASELINES
from dila.errors import DilaError
from dila.imagine.rollout import rollout
from dila.imagine.world import World
from dila.interop.models import build
from dila.nn import position
from dila.planning import dynamics
from dila.planning.cost import Called, Features, Later, Moment, Pixels, Reach, Score, Structure, Sum, vp2
from dila.planning.dynamics import Imagination, Now, Simulation
from dila.planning.gradient import Gradient
from dila.planning.mppi import MPPI
from dila.planning.planner import Limits
from dila.vision import ConvDecoder, ConvDecoderConfig
from dila.vision.pixels import PatchDecoder, PatchesConfig

BATCH, SAMPLES, HORIZON = 2, 5, 4


@pytest.fixture
def now(pictures):
    return Now(pictures(2, BATCH), ())


@pytest.fixture
def candidates():
    return torch.randn(BATCH, SAMPLES, HORIZON, 3)


@pytest.fixture
def goal(imagination, pictures):
    return imagination.structure(pictures(1, BATCH))


def counted(monkeypatch, module, name):
    calls = []
    inner = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: (calls.append(a), inner(*a, **k))[1])
    return calls


def test_structure_alone_costs_what_the_whole_model_says(imagination, now, candidates, goal):
    alone = imagination.costs(now, Structure(goal))(candidates)
    # A term of features without weight makes the whole model run.
    whole = imagination.costs(now, Sum([(1.0, Structure(goal)), (0.0, Features(torch.zeros(BATCH, 1, 4, 4, 12)))]))
    torch.testing.assert_close(alone, whole(candidates), atol=1e-5, rtol=1e-4)
    assert alone.shape == (BATCH, SAMPLES)
    assert alone.std() > 1e-4, "the costs tell nothing apart"


def test_each_candidate_costs_what_its_own_rollout_says(imagination, now, candidates, pictures):
    goal = imagination.see(pictures(1, BATCH))
    costs = imagination.costs(now, Features(goal))(candidates)
    e = imagination.see(now.frames)
    with torch.no_grad():
        z = imagination.world.model.encode_actions(candidates[1, 3][None])
        future = rollout(imagination.world.model, e[1:2], z)
    torch.testing.assert_close(costs[1, 3], (future - goal[1]).square().mean(), atol=1e-5, rtol=1e-4)


def test_the_context_is_read_once_for_all_candidates_and_iterations(imagination, now, goal, monkeypatch):
    model, encoder = imagination.world.model, imagination.world.encoder
    read = counted(monkeypatch, model.backbone, "forward")
    seen = encoder.frames
    MPPI(samples=7, iterations=3).plan(
        imagination.costs(now, Structure(goal)), HORIZON, Limits.unit(3), generator=torch.Generator(), batch=BATCH
    )
    assert encoder.frames - seen == now.frames.shape[0] * now.frames.shape[1]
    assert len(read) == 1


def test_what_a_cost_does_not_need_is_not_computed(imagination, now, candidates, goal, pictures, monkeypatch):
    drawn = counted(monkeypatch, imagination.world.model.decoder, "forward")
    imagination.costs(now, Structure(goal))(candidates)
    assert not drawn
    assert not imagination.world.decoder.frames
    imagination.costs(now, Features(imagination.see(pictures(1, BATCH))))(candidates)
    assert len(drawn) == HORIZON + 1, "once a frame, and once for the context"
    assert not imagination.world.decoder.frames
    imagination.costs(now, Pixels(pictures(1, BATCH).float() / 255))(candidates)
    assert imagination.world.decoder.frames == BATCH * SAMPLES * HORIZON


def test_candidates_wait_their_turn_in_parts_alike(world, now, goal, monkeypatch):
    imagination = Imagination(world)
    monkeypatch.setattr(dynamics, "_ON_A_CPU", 7 * imagination.see(now.frames)[0, 0].numel())
    repeated = counted(monkeypatch, dynamics, "repeat_state")
    imagination.costs(now, Structure(goal))(torch.randn(BATCH, 8, HORIZON, 3))
    assert [copies for _, copies in repeated] == [
        3,
        3,
        2,
    ]  # of each of two environments: six futures, not more than seven


def test_chunks_change_nothing(world, now, candidates, goal):
    whole, parts = (Imagination(world, chunk=chunk).costs(now, Structure(goal))(candidates) for chunk in (1024, 4))
    torch.testing.assert_close(whole, parts)


def test_frames_count_as_asked(world, now, candidates, goal):
    mean, sums, last = (
        Imagination(world, over=over).costs(now, Structure(goal))(candidates) for over in ("mean", "sum", "last")
    )
    torch.testing.assert_close(sums, mean * HORIZON)
    short = Imagination(world, over="sum").costs(now, Structure(goal))(candidates[:, :, :-1])
    torch.testing.assert_close(last, sums - short, atol=1e-4, rtol=1e-3)


def test_gradients_reach_the_actions_and_leave_the_weights_alone(imagination, now, goal):
    cost = imagination.costs(now, Structure(goal))
    plan = Gradient(samples=3, iterations=8).plan(
        cost, HORIZON, Limits.unit(3), generator=torch.Generator().manual_seed(0), batch=BATCH
    )
    assert (plan.costs.amin(0) < plan.costs[0]).all()
    assert all(parameter.grad is None for parameter in imagination.world.model.parameters())


DECODERS = {
    "conv": lambda: ConvDecoder(ConvDecoderConfig(12, (4, 4), 16, 16, 16)),
    "pixels": lambda: PatchDecoder(PatchesConfig(size=8, patch=2)),
}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", ["pixels", "vp2", "in a sum"])
def test_gradients_through_pixels_are_the_slopes_of_the_cost(name, kind, world, now, goal, pictures):
    world.decoder = DECODERS[name]()
    pixels = Pixels(pictures(1, BATCH), size=8)
    cost = {
        "pixels": pixels,
        "vp2": vp2(pictures(1, BATCH), lambda frames: frames.square().mean((1, 2, 3))),
        "in a sum": Sum([(1.0, Structure(goal)), (1.0, pixels)]),
    }[kind]
    of = Imagination(world).costs(now, cost)
    candidates = torch.randn(BATCH, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad(of(candidates.requires_grad_()).sum(), candidates)
    along, step = slope / slope.norm(), 3e-3
    with torch.no_grad():
        ahead, behind = (float(of(candidates + sign * step * along).double().sum()) for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float(slope.norm()), rel=0.05)
    if kind == "in a sum":
        (alone,) = torch.autograd.grad(Imagination(world).costs(now, Structure(goal))(candidates).sum(), candidates)
        assert (slope - alone).norm() > 0.1 * slope.norm()
    assert not of(candidates.detach()).requires_grad
    assert not world.decoder.decode(now.frames.new_zeros(1, 1, 4, 4, 12, dtype=torch.float32)).requires_grad


def test_gradients_are_taken_after_a_call_under_inference_mode(imagination, now, candidates, goal, pictures):
    """As stable-worldmodel's solvers call: no cache of tensors may keep what was made there."""
    position._offsets.cache_clear()
    position._KEPT.clear()
    cost = Sum([(1.0, Structure(goal)), (1.0, Features(imagination.see(pictures(1, BATCH))))])
    with torch.inference_mode():
        before = imagination.costs(now, cost)(candidates)
    of = imagination.costs(now, cost)
    torch.testing.assert_close(of(candidates), before)
    (slope,) = torch.autograd.grad(of(candidates.requires_grad_()).sum(), candidates)
    assert bool((slope != 0).any())
    e = imagination.see(pictures(3, BATCH))
    imagination.world.model.infer(e).sum().backward()


def test_a_decoder_without_gradients_is_no_silent_part_of_a_sum(world, now, candidates, goal, pictures, monkeypatch):
    monkeypatch.setattr(world.decoder, "decode", torch.no_grad()(world.decoder.decode))
    of = Imagination(world).costs(now, Sum([(1.0, Structure(goal)), (1.0, Pixels(pictures(1, BATCH)))]))
    assert of(candidates).shape == (BATCH, SAMPLES)
    with pytest.raises(DilaError, match="CellColour draws pixels without gradients; plan with mppi"):
        of(candidates.requires_grad_())


def test_a_goal_that_is_a_clip_is_compared_frame_by_frame(pictures):
    clip = torch.randn(BATCH, 3, 4, 4, 12)
    maps = torch.randn(BATCH, SAMPLES, 4, 4, 12)
    for k, frame in ((0, 0), (2, 2), (5, 2)):
        expected = (maps - clip[:, frame][:, None]).square().mean((2, 3, 4))
        torch.testing.assert_close(Features(clip)(Moment(k, features=maps)), expected)
    later = Later(Sum([(1.0, Features(clip))]), 2)
    torch.testing.assert_close(later(Moment(0, features=maps)), Features(clip)(Moment(2, features=maps)))
    assert later.needs == {"features"}


def test_a_region_alone_counts():
    goal, maps = torch.zeros(1, 1, 4, 4, 12), torch.zeros(1, 2, 4, 4, 12)
    maps[0, 0, 0, 0], maps[0, 1, 3, 3] = 1.0, 1.0
    region = torch.zeros(4, 4)
    region[0, 0] = 1
    assert Structure(goal, region)(Moment(0, structure=maps))[0].tolist() == [1.0, 0.0]


def test_a_region_of_nothing_is_refused():
    nowhere, goal = torch.zeros(4, 4), torch.zeros(1, 1, 4, 4, 12)
    for make in (lambda: Structure(goal, nowhere), lambda: Features(goal, nowhere), lambda: Reach(goal, nowhere)):
        with pytest.raises(DilaError, match="the weights of region must sum to a positive finite number"):
            make()


def test_reaching_a_region_is_cheap_where_the_thing_is_there():
    thing, maps = torch.ones(12), torch.zeros(1, 2, 4, 4, 12)
    maps[0, 0, 1, 1], maps[0, 1, 3, 3] = 1.0, 1.0
    region = torch.zeros(4, 4, dtype=torch.bool)
    region[:2, :2] = True
    assert Reach(thing, region)(Moment(0, features=maps))[0].tolist() == [0.0, 1.0]


def test_vp2s_objective_is_half_the_pixels_less_ten_logits(pictures):
    goal, seen = (pictures(1, BATCH).float() / 255 for _ in range(2))
    cost = vp2(goal, lambda frames: frames.mean((1, 2, 3)))
    pixels = Pixels(goal)(Moment(0, pixels=seen))
    big = torch.nn.functional.interpolate(seen[:, 0], (64, 64), mode="bilinear", align_corners=False)
    expected = 0.5 * pixels - 10 * big.mean((1, 2, 3))[:, None]
    torch.testing.assert_close(cost(Moment(0, pixels=seen)), expected)
    assert cost.needs == {"pixels"}
    sharp = torch.nn.functional.interpolate(goal[:, 0], (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pixels[:, 0], (big - sharp).square().sum((1, 2, 3)))


def test_a_goals_pixels_are_what_the_loop_hands_over(pictures):
    """Goals come as uint8 from the environments."""
    goal, seen = pictures(1, BATCH), Moment(0, pixels=pictures(1, BATCH).float() / 255)
    torch.testing.assert_close(Pixels(goal)(seen), Pixels(goal.float() / 255)(seen))


@pytest.mark.usefixtures("as_installed")
def test_goals_of_another_shape_or_range_are_refused(imagination, now, candidates, pictures):
    goal = pictures(1, BATCH)
    for made, told in (
        (
            lambda: imagination.structure(goal[:, 0]),
            r"B T 3 Y X, not \[2, 3, 16, 16\]; one picture is a clip",
        ),
        (lambda: Pixels(goal[:, 0]), r"must be B G 3 Y X, not \[2, 3, 16, 16\]"),
        (lambda: Pixels(goal.float()), "float pictures should be in 0..1 but go from 0 to 255"),
    ):
        with pytest.raises(DilaError, match=told):
            made()
    for wrong, told in (
        (imagination.structure(goal), r"a goal of 2 x \[4, 4, 6\] cannot be compared with futures of 2 x \[4, 4, 12\]"),
        (imagination.see(goal)[:, 0], r"a goal of 2 x \[4, 12\] cannot be"),
        (imagination.see(goal)[[0, 1, 1]], r"a goal of 3 x \[4, 4, 12\] cannot be"),
    ):
        with pytest.raises(DilaError, match=told):
            imagination.costs(now, Features(wrong))(candidates)


def test_a_function_of_ones_own_is_a_cost(imagination, now, candidates):
    cost = Called(lambda moment: moment.structure.mean((2, 3, 4)), frozenset({"structure"}))
    assert imagination.costs(now, cost)(candidates).shape == (BATCH, SAMPLES)


def test_what_a_model_cannot_know_is_refused(imagination, now, world):
    with pytest.raises(DilaError, match="does not know the environment's own score"):
        imagination.costs(now, Score())
    world.decoder = None
    with pytest.raises(DilaError, match="needs a decoder"):
        imagination.costs(now, Pixels(torch.zeros(1, 1, 3, 8, 8)))
    world.model.action_encoder = None
    with pytest.raises(DilaError, match="dila adapt"):
        Imagination(world)


class Line:
    """A world whose whole state is a place that actions add to; its picture is as bright as the place."""

    place = 0.0

    def state(self):
        return self.place

    def restore(self, state):
        self.place = state

    def advance(self, action):
        self.place += float(action.sum())

    def picture(self):
        return torch.full((3, 16, 16), int(np.clip(self.place, 0, 255)), dtype=torch.uint8)

    def score(self):
        return abs(self.place - 50)


def test_the_true_simulator_knows_and_is_put_back(pictures):
    lines = [Line(), Line()]
    lines[1].place = 40.0
    candidates = torch.full((2, 1, 2, 3), 1.0)
    costs = Simulation().costs(Now(pictures(1), lines), Score())(candidates)
    assert costs[:, 0].tolist() == [(47 + 44) / 2, (7 + 4) / 2]
    assert [line.place for line in lines] == [0.0, 40.0]


def test_the_true_simulator_is_seen_with_the_models_eyes(imagination, pictures):
    lines = [Line(), Line()]
    goal = torch.full((2, 1, 3, 16, 16), 60, dtype=torch.uint8)
    simulation, now = Simulation(imagination), Now(pictures(1), lines)
    candidates = torch.stack([torch.full((2, 2, 3), 10.0), torch.full((2, 2, 3), 0.0)], dim=1)
    near, far = simulation.costs(now, Features(imagination.see(goal)))(candidates)[0]
    expected = ((30 - 60) / 255) ** 2 / 2 + 0.0
    assert float(near) == pytest.approx(expected, abs=1e-4)
    assert near < far
    assert simulation.costs(now, Structure(imagination.structure(goal)))(candidates).shape == (2, 2)
    assert simulation.costs(now, Pixels(goal.float() / 255))(candidates)[0, 0] < 64 * 64 * 3


def test_true_futures_are_read_after_the_frames_before_them(imagination, pictures):
    now, goal = Now(pictures(2), [Line(), Line()]), imagination.structure(pictures(1))
    costs = Simulation(imagination).costs(now, Structure(goal))(torch.zeros(2, 1, 3, 3))
    black = torch.zeros(2, 3, 3, 16, 16, dtype=torch.uint8)
    s = imagination.structure(torch.cat([now.frames, black], 1))[:, 2:]
    torch.testing.assert_close(costs[:, 0], (s - goal).square().mean((1, 2, 3, 4)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("needs", ["structure", "features"])
def test_many_true_futures_are_seen_a_few_at_a_time_and_their_past_once(imagination, pictures, monkeypatch, needs):
    now, goal = Now(pictures(2), [Line(), Line()]), pictures(1)
    cost = Structure(imagination.structure(goal)) if needs == "structure" else Features(imagination.see(goal))
    candidates = torch.rand(2, 6, 3, 3) * 20
    whole = Simulation(imagination).costs(now, cost)(candidates)
    seen, read = (
        counted(monkeypatch, imagination, "see"),
        counted(monkeypatch, imagination.world.model.backbone, "forward"),
    )
    monkeypatch.setattr(dynamics, "_ON_A_CPU", 12 * imagination.see(now.frames)[0, 0].numel())
    torch.testing.assert_close(Simulation(imagination).costs(now, cost)(candidates), whole)
    assert [tuple(frames.shape[:2]) for (frames,) in seen[1:]] == [(2, 2), (4, 3), (4, 3), (4, 3)]
    assert [tuple(e.shape[:2]) for e, *_ in read] == ([(2, 2), (4, 3), (4, 3), (4, 3)] if needs == "structure" else [])


def test_a_simulator_without_eyes_sees_no_structure():
    with pytest.raises(DilaError, match="needs a model; give it as eyes"):
        Simulation().costs(Now(torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8), [Line()]), Structure(torch.zeros(1)))


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_planned_with_by_features(name, world, now, candidates, pictures):
    config = BASELINES[name]["tiny"].for_features((4, 4), 12)
    model = build(replace(config, real_action_dim=3, predicts="features"))
    imagination = Imagination(World(model, world.encoder, world.decoder, stride=0.2, frames=6))
    goal = imagination.see(pictures(1, BATCH))
    costs = imagination.costs(now, Features(goal))(candidates)
    assert costs.shape == (BATCH, SAMPLES)
    with torch.no_grad():
        future = rollout(model, imagination.see(now.frames)[1:2], model.encode_actions(candidates[1, 3][None]))
    torch.testing.assert_close(costs[1, 3], (future - goal[1]).square().mean(), atol=1e-5, rtol=1e-4)
    with pytest.raises(DilaError, match="needs a DiLA"):
        imagination.structure(now.frames)
