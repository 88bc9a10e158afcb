"""Planning by gradient descent on the actions, through the model, from several initial plans in parallel."""

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
    """Adam (Kingma and Ba 2015) on the actions, which are clipped to their limits after every step.

    Args:
        samples: initial plans: the previous plan, and random perturbations of it.
        iterations: steps of Adam.
        rate: learning rate, as a fraction of half the action's range.
        std: standard deviation of the perturbations, in the same unit: one number, or one per component.
        memory: correlation of their noise over actions, see `MPPI`.
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
        """See `dila.planning.planner.Planner.plan`; returns the best candidate of all steps.

        Raises:
            DilaError: as there, or the cost has no gradient, as in a simulator.
        """
        std, mean = deviations(self.std, limits), beginning(warm, batch, horizon, limits)
        noise = smooth_noise((batch, self.samples, horizon, len(std)), self.memory, generator)
        noise[:, 0] = 0
        # In units of half the range, so that one learning rate suits all components.
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
        """Take one step and return the costs before it. Gradients that are not finite count as 0."""
        costs = asked(cost, candidates)
        if not costs.requires_grad:
            raise DilaError(
                "the gradient planner needs a cost with a gradient; use mppi or cem in a simulator, and do not plan "
                "under torch.inference_mode"
            )
        # With respect to the actions only, not to the model's weights.
        (gradient,) = torch.autograd.grad(costs.sum(), unit)
        unit.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
        adam.step()
        return costs.detach().cpu().float()
