"""All planners on a cost whose answer is known, and VP2's MPPI written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dila.errors import DilaError
from dila.planning.cem import CEM, icem
from dila.planning.gradient import Gradient
from dila.planning.mppi import MPPI
from dila.planning.planner import Blind, Limits, Plan, Planner, coloured_noise, shifted, smooth_noise

BATCH, HORIZON, DIM = 3, 6, 2
LIMITS = Limits(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 4.0]))
TARGET = torch.linspace(-0.8, 0.8, BATCH * HORIZON * DIM).reshape(BATCH, 1, HORIZON, DIM)
BUDGET = 600
PLANNERS = {
    "mppi": MPPI(samples=BUDGET // 6, iterations=6, gamma=6.0, relative=True),
    "cem": CEM(samples=BUDGET // 6, elites=10, iterations=6),
    "icem": icem(samples=BUDGET // 6, elites=10, iterations=6),
    "gradient": Gradient(samples=BUDGET // 30, iterations=30, rate=0.15),
}


def quadratic(candidates):
    return (candidates - TARGET).square().sum((2, 3))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def plan(planner, cost=quadratic, seed=0, **options):
    return planner.plan(cost, HORIZON, LIMITS, generator=generator(seed), batch=BATCH, **options)


@pytest.fixture(params=PLANNERS)
def planner(request):
    return PLANNERS[request.param]


def test_it_minimises_a_quadratic_far_better_than_as_many_random_candidates(planner):
    found = quadratic(plan(planner).actions[:, None])[:, 0]
    # The same proposals as MPPI's first round, as many as the planner may try in all, and the best of them.
    noise = smooth_noise((BATCH, BUDGET, HORIZON, DIM), 0.5, generator()) * 0.5 * LIMITS.half
    random = quadratic(LIMITS.clip(LIMITS.middle + noise)).amin(1)
    assert (found < 0.6 * random).all()


def test_it_gets_no_worse_from_iteration_to_iteration(planner):
    costs = plan(planner).costs
    assert (costs[-1] < 0.7 * costs[0]).all()
    assert costs.shape[1] == BATCH


def test_actions_stay_within_their_limits(planner):
    away = torch.tensor([5.0, 9.0])
    seen = []

    def cost(candidates):
        seen.append(candidates.detach())
        return (candidates - away).square().sum((2, 3))

    actions = plan(planner, cost).actions
    every = torch.cat([part.flatten(0, 2) for part in [*seen, actions[:, None]]])
    assert (every >= LIMITS.low - 1e-5).all()
    assert (every <= LIMITS.high + 1e-5).all()
    assert (actions > LIMITS.middle).float().mean() > 0.9


def test_the_same_seed_gives_the_same_plan_and_another_seed_another(planner):
    first, again, other = (plan(planner, seed=seed).actions for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_environment_with_a_generator_of_its_own_is_planned_as_alone(planner):
    together = planner.plan(quadratic, HORIZON, LIMITS, generator=[generator(s) for s in range(BATCH)], batch=BATCH)
    alone = planner.plan(
        lambda a: (a - TARGET[1:2]).square().sum((2, 3)), HORIZON, LIMITS, generator=generator(1), batch=1
    )
    torch.testing.assert_close(together.actions[1], alone.actions[0])
    with pytest.raises(DilaError, match="2 generators for 3 environments; give one, or one for each"):
        planner.plan(quadratic, HORIZON, LIMITS, generator=[generator(), generator(1)], batch=BATCH)


def test_environments_planned_together_do_not_mix(planner):
    """One environment's target moves; the plans of the others stay what they were."""

    def moved(candidates):
        target = TARGET.clone()
        target[0] = -target[0]
        return (candidates - target).square().sum((2, 3))

    before, after = plan(planner).actions, plan(planner, moved).actions
    torch.testing.assert_close(before[1:], after[1:])
    assert not torch.allclose(before[0], after[0])


def test_a_warm_start_begins_where_the_plan_before_went_on(planner):
    later = torch.cat([TARGET[:, 0, :1], TARGET[:, 0, :-1]], 1)  # what, a step later, is the target
    warm = Plan(later, torch.zeros(1, BATCH), None)
    once = replace(planner, iterations=1)
    cold, warmed = plan(once), plan(once, warm=warm)
    assert warmed.costs[0].sum() < 0.8 * cold.costs[0].sum()


def test_a_warm_start_is_brought_to_the_horizon_and_is_of_the_same_environments(planner):
    before = plan(planner)
    for horizon in (1, HORIZON - 2, HORIZON + 3):
        found = planner.plan(
            lambda a: a.square().sum((2, 3)), horizon, LIMITS, generator=generator(), batch=BATCH, warm=before
        )
        assert found.actions.shape == (BATCH, horizon, DIM)
    with pytest.raises(
        DilaError, match=r"warm is a plan of 3 environments and actions of 2 components, not of 1 and 2"
    ):
        planner.plan(quadratic, HORIZON, LIMITS, generator=generator(), warm=before)


@pytest.mark.parametrize("allowed", [1, 4, 19])
def test_infinite_costs_leave_the_plan_finite(planner, allowed):
    def cost(candidates):
        costs = quadratic(candidates)
        return torch.cat([costs[:, :allowed], torch.full_like(costs[:, allowed:], torch.inf)], 1)

    found = plan(planner, cost)
    assert found.actions.isfinite().all()
    assert found.costs.isfinite().all()


def test_what_is_never_to_be_done_is_not_done(planner):
    """A wall in the way of the target: nothing beyond it is executed, and the plan comes close to it."""

    def cost(candidates):
        beyond = (candidates[..., 0] > 0.2).any(2)
        return torch.where(beyond, torch.inf, (candidates[..., 0] - 0.5).square().sum(2))

    actions = plan(planner, cost).actions
    assert (actions[..., 0] <= 0.2).all()
    assert (actions[..., 0].mean(1) > -0.1).all()


def test_mppi_measures_costs_by_the_spread_of_the_finite_ones():
    few, all_of_them = torch.rand(2, 5), torch.full((2, 9), torch.inf)
    all_of_them[:, 2:7] = few
    weights = MPPI(gamma=3.0, relative=True)._weights(all_of_them.double())
    torch.testing.assert_close(weights[:, 2:7], torch.softmax(-3 * few / few.std(1, keepdim=True), 1))
    assert (weights[:, [0, 1, 7, 8]] == 0).all()
    assert MPPI(gamma=0.0)._weights(all_of_them)[0].tolist() == pytest.approx([0, 0, *[0.2] * 5, 0, 0])


def test_cem_fits_to_the_finite_elites_alone():
    costs = torch.tensor([[torch.inf, 3.0, 1.0, torch.inf, torch.inf, 2.0], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    assert CEM(elites=5)._order(costs).tolist() == [[2, 5, 1, 2, 5], [5, 4, 3, 2, 1]]


@pytest.mark.parametrize("number", [torch.nan, -torch.inf])
def test_a_cost_that_compares_with_nothing_is_refused(planner, number):
    def cost(candidates):
        return quadratic(candidates).index_fill(1, torch.tensor([3]), number)

    with pytest.raises(DilaError, match=r"the cost of 3 of \d+ candidates is NaN or minus infinity"):
        plan(planner, cost)


def test_where_nothing_may_be_done_it_says_so(planner):
    def cost(candidates):
        return quadratic(candidates).index_fill(0, torch.tensor([1]), torch.inf)

    with pytest.raises(DilaError, match="all candidates of environment 1 have an infinite cost"):
        plan(planner, cost)


def test_a_candidate_without_a_finite_gradient_stays():
    """The root has none at 0, where the search begins."""
    found = plan(Gradient(iterations=3), lambda a: (a - LIMITS.middle).square().sum((2, 3)).sqrt())
    assert torch.equal(found.actions, LIMITS.middle.expand(BATCH, HORIZON, -1))
    assert found.costs.isfinite().all()


def test_gradients_are_taken_where_they_are_switched_off():
    with torch.no_grad():
        without = plan(PLANNERS["gradient"])
    assert torch.equal(without.actions, plan(PLANNERS["gradient"]).actions)
    with torch.inference_mode(), pytest.raises(DilaError, match=r"do not plan under torch\.inference_mode"):
        plan(PLANNERS["gradient"])


def test_time_that_is_up_ends_it_after_one_iteration_and_more_time_gives_more(planner):
    after = isinstance(planner, Gradient)  # looks again at where its last step led
    assert len(plan(planner, seconds=0.0).costs) == 1 + after
    assert len(plan(planner, seconds=0.3).costs) > 2


def test_every_planner_satisfies_the_protocol(planner):
    assert isinstance(planner, Planner)
    assert isinstance(Blind(), Planner)


def test_blind_asks_no_cost():
    blind = plan(Blind(), cost=lambda candidates: pytest.fail("asked"))
    assert blind.actions.shape == (BATCH, HORIZON, DIM)
    assert not torch.equal(blind.actions, plan(Blind(), seed=1).actions)


def vp2_mppi(mean, std, gamma, cost, white):
    """VP2's update of one environment, literally: correlated noise, clip, weights, mean."""
    samples, horizon, _ = white.shape
    noise = np.zeros_like(white)
    for i in range(horizon):
        noise[:, i] = white[:, i] * std if i == 0 else 0.5 * noise[:, i - 1] + 0.5 * white[:, i] * std
    actions = np.clip(mean + noise, -1, 1)
    reward = np.array([-cost(actions[s]) for s in range(samples)])
    weights = np.exp(gamma * (reward - reward.max()))
    return (weights[:, None, None] * actions).sum(0) / weights.sum()


def test_mppi_is_vp2s():
    """Two steps of planning with a warm start, in float64 by hand; the gripper has no deviation."""
    samples, horizon, dim, std = 50, 10, 4, np.array([0.5, 0.5, 0.5, 0.0])
    target = np.linspace(-1, 1, horizon * dim).reshape(horizon, dim)
    planner = MPPI(samples=samples, std=(0.5, 0.5, 0.5, 0.0))
    draw = torch.Generator().manual_seed(3)
    mean, found = np.zeros((horizon, dim)), None
    for _ in range(2):
        state = draw.get_state()
        white = torch.randn(1, samples, horizon, dim, generator=draw)[0].double().numpy()
        draw.set_state(state)
        mean = vp2_mppi(mean, std, 0.05, lambda a: 30 * ((a - target) ** 2).sum(), white)
        found = planner.plan(
            lambda a: 30 * (a - torch.from_numpy(target)).square().sum((2, 3)), horizon, Limits.unit(dim),
            generator=draw, warm=found,
        )  # fmt: skip
        np.testing.assert_allclose(found.actions[0].numpy(), mean, atol=2e-5)
        assert (found.actions[0, :, 3] == 0).all()
        mean = np.concatenate([mean[1:], mean[-1:]])


def test_shifting_drops_the_first_and_repeats_the_last():
    a = torch.arange(8.0).reshape(1, 4, 2)
    assert shifted(a, 4)[0, :, 0].tolist() == [2, 4, 6, 6]
    assert shifted(a, 2)[0, :, 0].tolist() == [2, 4]
    assert shifted(a, 6)[0, :, 0].tolist() == [2, 4, 6, 6, 6, 6]
    assert shifted(a, 3, by=2)[0, :, 0].tolist() == [4, 6, 6]


def test_the_noise_that_remembers_has_vp2s_spread():
    noise = smooth_noise((1, 20000, 8, 1), 0.5, generator())[0, :, :, 0]
    torch.testing.assert_close(noise.var(0)[[0, 1]], torch.tensor([1.0, 0.5]), atol=0.05, rtol=0)
    assert 0.4 < float((noise[:, 6] * noise[:, 7]).mean() / noise[:, 7].var()) < 0.6


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 4.0])
def test_coloured_noise_has_unit_variance_and_is_smoother_the_larger_its_exponent(exponent):
    noise = coloured_noise((1, 8000, 12, 1), exponent, generator())[0, :, :, 0]
    torch.testing.assert_close(noise.var(), torch.tensor(1.0), atol=0.06, rtol=0)
    likeness = float((noise[:, 1:] * noise[:, :-1]).mean())
    low, high = {0.0: (-0.05, 0.05), 1.0: (0.4, 0.75), 2.0: (0.75, 0.93), 4.0: (0.93, 1.0)}[exponent]
    assert low < likeness < high


def test_icem_keeps_elites_for_the_next_plan_and_draws_fewer_each_iteration():
    drawn = []

    def cost(candidates):
        drawn.append(candidates.shape[1])
        return quadratic(candidates)

    planner = icem(samples=60, elites=10, iterations=3)
    first = plan(planner, cost)
    assert first.kept.shape == (BATCH, 3, HORIZON, DIM)
    assert drawn[0] > drawn[1] > drawn[2]
    drawn.clear()
    seen = []
    plan(planner, lambda c: (seen.append(c), quadratic(c))[1], warm=first)
    torch.testing.assert_close(seen[0][:, -3:], shifted(first.kept, HORIZON))


def test_icem_goes_on_from_its_mean_which_is_a_candidate_of_the_last_iteration_alone():
    """Pinneri et al. 2020, algorithm 1, lines 3 and 11."""
    fitted, seen = icem(samples=40, elites=10, iterations=2, keep=0.0), []

    def cost(candidates):
        seen.append(candidates)
        return quadratic(candidates)

    first = plan(fitted, cost)
    elites = seen[0].gather(1, quadratic(seen[0]).argsort(1)[:, :10, None, None].expand(-1, -1, HORIZON, DIM))
    mean = 0.1 * LIMITS.middle + 0.9 * elites.mean(1)
    assert [part.shape[1] for part in seen] == [40, 33]
    torch.testing.assert_close(seen[1][:, -1], mean)
    assert not torch.allclose(first.actions, first.mean)
    seen.clear()
    plan(replace(fitted, iterations=1), cost, warm=first)
    torch.testing.assert_close(seen[0][:, -1], shifted(first.mean, HORIZON))


def test_every_step_of_the_gradient_planner_counts():
    """Its iterations are steps downhill: where the last one led is looked at, and nothing is differentiated there."""
    calls = []

    def cost(candidates):
        calls.append(torch.is_grad_enabled())
        return quadratic(candidates)

    found = plan(Gradient(samples=1, iterations=3), cost)
    assert calls == [True, True, True, False]
    assert (found.costs.diff(dim=0) < 0).all()
    torch.testing.assert_close(quadratic(found.actions[:, None])[:, 0], found.costs[-1])
    once = plan(Gradient(samples=1, iterations=1), cost)
    assert not torch.equal(once.actions, LIMITS.middle.expand(BATCH, HORIZON, DIM))


@pytest.mark.parametrize("kind", [MPPI, CEM, Gradient])
@pytest.mark.parametrize("none", [{"samples": 0}, {"iterations": 0}])
def test_a_search_that_tries_nothing_is_refused(kind, none):
    with pytest.raises(DilaError, match="must be at least 1"):
        kind(**none)


def test_a_plan_of_nothing_is_refused(planner):
    with pytest.raises(DilaError, match="horizon = 0, the number of planned actions, must be at least 1"):
        planner.plan(quadratic, 0, LIMITS, generator=generator())


def test_a_plan_is_taken_apart_and_goes_on():
    whole = icem(samples=20, elites=4).plan(quadratic, HORIZON, LIMITS, generator=generator(), batch=BATCH)
    some = whole.of([2, 0])
    assert torch.equal(some.costs, whole.costs[:, [2, 0]])
    for part, its in zip((some.actions, some.kept, some.mean), (whole.actions, whole.kept, whole.mean), strict=True):
        assert torch.equal(part, its[[2, 0]])
        assert torch.equal(part[..., 2:, :], Plan(part, whole.costs).later(2).actions[..., :-2, :])
    assert whole.later(2).kept.shape == whole.kept.shape
    assert torch.equal(whole.later(0).mean, whole.mean)


@pytest.mark.parametrize("high", [[1.0, -3.0], [1.0, torch.nan], [1.0]])
def test_limits_are_the_right_way_round(high):
    with pytest.raises(DilaError, match=r"low = \[-1.0, -2.0\] must not exceed high = "):
        Limits(LIMITS.low, torch.tensor(high))


def test_limits_are_a_boxs():
    low = np.array([-1.0, -2.0])
    low.flags.writeable = False
    for made in (Limits(low, [1.0, 4.0]), Limits(LIMITS.low.double(), LIMITS.high.numpy())):
        assert torch.equal(made.low, LIMITS.low)
        assert torch.equal(made.high, LIMITS.high)
        assert made.low.dtype == torch.float32
    with pytest.raises(DilaError, match=r"high = \[inf, 4.0\], and both must be finite; give a range"):
        Limits(low, [torch.inf, 4.0])
    listed, tupled = (plan(MPPI(samples=5, std=std)).actions for std in ([0.5, 0.1], (0.5, 0.1)))
    assert torch.equal(listed, tupled)


def test_bad_settings_are_refused_in_a_sentence():
    with pytest.raises(DilaError, match=r"std = -1\.0 must be 0 or more"):
        plan(MPPI(std=-1.0))
    with pytest.raises(DilaError, match="elites = 300 must be from 2 to samples"):
        CEM(elites=300)
    with pytest.raises(DilaError, match="std has 3 numbers, but actions have 2 components"):
        plan(MPPI(std=(1.0, 1.0, 1.0)))
    with pytest.raises(DilaError, match=r"the cost returned shape \[3\] for candidates \[3, 200\]; return one"):
        plan(MPPI(), lambda candidates: candidates.sum((1, 2, 3)))
    with pytest.raises(DilaError, match="needs a cost with a gradient"):
        plan(Gradient(), lambda candidates: torch.zeros(candidates.shape[:2]))
