"""Model-predictive path integral control (MPPI), as in the VP2 benchmark (https://arxiv.org/abs/2304.13723).

Candidates are the current plan plus correlated noise; the new plan is their mean, weighted by exp(gamma * reward). The
standard deviation is constant over iterations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dila.planning.planner import (
    CostOf,
    Generators,
    Limits,
    Plan,
    asked,
    beginning,
    check_search,
    deviations,
    possible,
    rounds,
    smooth_noise,
)
from dila.shapes import Float, Tensor


@dataclass(frozen=True)
class MPPI:
    """MPPI. The defaults are VP2's (200 samples, one iteration per step).

    Args:
        samples: candidates per environment.
        iterations: updates per plan.
        gamma: factor in the weights exp(gamma (R - max R)) with R = -cost.
        std: standard deviation of the noise, as a fraction of half the action's range; one number, or one per
            component.
        memory: correlation of the noise from one action to the next.
        relative: divide costs by their standard deviation over the candidates (infinite ones excluded), so that one
            gamma suits every cost; VP2 does not, and its gamma suits its sum of squared pixels.
    """

    samples: int = 200
    iterations: int = 1
    gamma: float = 0.05
    std: float | Sequence[float] = 0.5
    memory: float = 0.5
    relative: bool = False

    def __post_init__(self):
        check_search(self.samples, self.iterations)

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
        """See `dila.planning.planner.Planner.plan`."""
        mean, std = beginning(warm, batch, horizon, limits), deviations(self.std, limits)
        least = []
        for _ in rounds(self.iterations, seconds):
            noise = smooth_noise((batch, self.samples, horizon, len(std)), self.memory, generator)
            candidates = limits.clip(mean[:, None] + noise * std)
            costs = asked(cost, candidates).detach().cpu().double()
            least.append(possible(costs.amin(1)).float())
            mean = (self._weights(costs)[:, :, None, None] * candidates).sum(1)
        return Plan(mean, torch.stack(least))

    def _weights(self, costs: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
        gains = -self.gamma * (costs / _spread(costs) if self.relative else costs)
        return torch.softmax(gains.masked_fill(costs.isinf(), -torch.inf), dim=1).float()


def _spread(costs: Float[Tensor, "B S"]) -> Float[Tensor, "B 1"]:
    """Standard deviation of the finite costs of each environment, of which there is at least one."""
    finite = [row[row.isfinite()] for row in costs]
    return torch.stack([row.std(correction=min(1, len(row) - 1)) for row in finite])[:, None].clamp_min(1e-12)
