"""Planning by gradients: actions are moved downhill through the model, from several beginnings at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dila.errors import DilaError
from dila.planning.planner import (
    CostOf,
    Generators,
    Limits,
    Plan,
    asked,
    beginning,
    best_of,
    check_search,
    deviations,
    possible,
    rounds,
    smooth_noise,
)


@dataclass(frozen=True)
class Gradient:
    """Adam (Kingma and Ba 2015) on the actions, which are brought back within their limits after every step.

    Args:
        samples: beginnings: the plan before, and random ones about it.
        iterations: steps downhill.
        rate: of Adam, in shares of half the action's range.
        std: deviation of the beginnings, in the same unit; one number, or one a component.
        memory: of their noise, see `MPPI`.
    """

    samples: int = 16
    iterations: int = 12
    rate: float = 0.1
    std: float | Sequence[float] = 0.5
    memory: float = 0.5

    def __post_init__(self):
        check_search(self.samples, self.iterations)

    @torch.enable_grad()
    def plan(
        self,
        cost: CostOf,
        horizon: int,
        limits: Limits,
        *,
        generator: Generators,
        batch: int = 1,
        warm: Plan | None = None,
        seconds: float | None = None,
    ) -> Plan:
        """See `dila.planning.planner.Planner.plan`; the best candidate ever seen is the plan.

        Raises:
            DilaError: as there; or the cost has no gradient, as that of a simulator.
        """
        std, mean = deviations(self.std, limits), beginning(warm, batch, horizon, limits)
        noise = smooth_noise((batch, self.samples, horizon, len(std)), self.memory, generator)
        noise[:, 0] = 0
        # In units of half the range, so that one rate serves all components.
        half = limits.half.clamp_min(1e-12)
        unit = ((limits.clip(mean[:, None] + noise * std) - limits.middle) / half).requires_grad_(True)
        adam = torch.optim.Adam([unit], lr=self.rate)
        tried, costs = [], []
        for _ in rounds(self.iterations, seconds):
            candidates = limits.middle + unit * half
            tried.append(candidates.detach())
            costs.append(self._descend(cost, candidates, unit, adam))
            with torch.no_grad():
                unit.clamp_(-1, 1)
        with torch.no_grad():
            tried.append(limits.middle + unit * half)
            costs.append(asked(cost, tried[-1]).cpu().float())
        least = torch.stack([each.amin(1) for each in costs])
        possible(least.amin(0))
        return Plan(best_of(torch.cat(tried, 1), torch.cat(costs, 1)), least)

    def _descend(
        self, cost: CostOf, candidates: torch.Tensor, unit: torch.Tensor, adam: torch.optim.Adam
    ) -> torch.Tensor:
        """One step; the costs before it. A candidate without a finite gradient stays."""
        costs = asked(cost, candidates)
        if not costs.requires_grad:
            raise DilaError(
                "the gradient planner needs a cost with a gradient; plan with mppi or cem in a simulator, and outside "
                "torch.inference_mode in a model"
            )
        # Of the actions alone: the model's weights are none of a plan's business.
        (gradient,) = torch.autograd.grad(costs.sum(), unit)
        unit.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
        adam.step()
        return costs.detach().cpu().float()
