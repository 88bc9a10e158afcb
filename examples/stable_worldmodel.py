"""Plan on Push-T with stable-worldmodel's MPPI, or with ours where that package is not installed.

python examples/stable_worldmodel.py outputs/adapted/model
"""

import sys

import torch

import dila
from dila.interop.actions import load_actions
from dila.interop.stable_worldmodel import CostModel, cost_model
from dila.planning.dynamics import Imagination
from dila.planning.environments import make_environment
from dila.planning.mppi import MPPI
from dila.planning.planner import Limits

HORIZON = 6


def solve(model: CostModel, info: dict, width: int) -> torch.Tensor:
    """The best actions ``T A`` in standardised units."""
    try:
        from gymnasium.spaces import Box
        from stable_worldmodel.policy import PlanConfig
        from stable_worldmodel.solver import MPPISolver
    except ImportError:
        limits = Limits(torch.full((width,), -2.0), torch.full((width,), 2.0))
        planner = MPPI(samples=64, iterations=2, gamma=3.0, relative=True)
        generator = torch.Generator().manual_seed(0)
        return planner.plan(lambda a: model.get_cost(info, a), HORIZON, limits, generator=generator).actions[0]
    solver = MPPISolver(model, num_samples=64, n_steps=2, topk=10)
    solver.configure(action_space=Box(-2, 2, (1, width)), n_envs=1, config=PlanConfig(HORIZON, 1))
    return solver.solve(info)["actions"][0]


def main(path: str, steps: int = 10) -> None:
    """Reach one goal."""
    world, (actions, _) = dila.load(path), load_actions(path)
    model = cost_model(Imagination(world), actions, standardised=True)
    environment = make_environment("pusht-reach", world.stride)
    picture, begun = environment.reset(seed=0)
    width, score = len(actions.names) * actions.repeats, begun["score"]
    for _ in range(steps):
        info = {"pixels": picture[None, None], "goal": begun["goal"][None, None]}
        plan = solve(model, info, width)
        raw = plan[0].reshape(actions.repeats, -1) * torch.tensor(actions.std) + torch.tensor(actions.mean)
        picture, _, _, _, after = environment.step(raw.mean(0).numpy())
        score = after["score"]
    print(f"distance to the goal: {begun['score']:.3f} at first, {score:.3f} after {steps} steps")


if __name__ == "__main__":
    main(sys.argv[1])
