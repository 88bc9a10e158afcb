"""The cross-entropy method (CEM), and iCEM of Pinneri et al. 2020 (https://arxiv.org/abs/2008.06389).

CEM repeatedly fits a Gaussian over plans to the best of its samples (elites). iCEM uses coloured noise, keeps some
elites over iterations and steps, shrinks the number of samples, and executes the best candidate seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    coloured_noise,
    deviations,
    possible,
    rounds,
    shifted,
)
from dila.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class CEM:
    """CEM. The defaults are the plain method with a little momentum and a minimum deviation; `icem` returns iCEM.

    Args:
        samples: candidates per environment in the first iteration, but at least twice ``elites``.
        elites: number of best candidates that the Gaussian is fitted to.
        iterations: iterations per plan.
        std: initial standard deviation, as a fraction of half the action's range: one number, or one per component.
        floor: minimum standard deviation, in the same unit.
        momentum: share of the old Gaussian in the new one.
        exponent: exponent of the noise spectrum; 0 is white, larger is smoother.
        keep: share of the elites that are candidates again in the next iteration and, shifted, in the next plan.
        shrink: factor by which the number of candidates falls in each iteration, to no fewer than twice the elites.
        best: return the best candidate seen instead of the mean, and make the mean a candidate of the last iteration
            (with a time limit, of every iteration from number ``iterations`` on).
    """

    samples: int = 200
    elites: int = 20
    iterations: int = 5
    std: float | Sequence[float] = 0.5
    floor: float = 0.02
    momentum: float = 0.1
    exponent: float = 0.0
    keep: float = 0.0
    shrink: float = 1.0
    best: bool = False

    def __post_init__(self):
        check_search(self.samples, self.iterations)
        if not 2 <= self.elites <= self.samples or self.shrink < 1 or not 0 <= self.keep <= 1:
            raise DilaError(
                f"elites = {self.elites} must be from 2 to samples = {self.samples}, shrink = {self.shrink} at "
                f"least 1 and keep = {self.keep} from 0 to 1"
            )

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
        mean, begun = beginning(warm, batch, horizon, limits), deviations(self.std, limits)
        std, floor = begun.expand_as(mean), self.floor * limits.half
        kept = limits.clip(shifted(warm.kept, horizon)) if warm is not None and warm.kept is not None else None
        found, lowest, least = mean, torch.full((batch,), torch.inf), []
        for i in rounds(self.iterations, seconds):
            drawn = self._drawn(i, mean, std, limits, generator)
            asked_too = [mean[:, None]] if self.best and i >= self.iterations - 1 else []
            candidates = torch.cat([drawn, *([] if kept is None else [kept]), *asked_too], 1)
            costs = asked(cost, candidates).detach().cpu().float()
            least.append(possible(costs.amin(1)))
            elites = torch.take_along_dim(candidates, self._order(costs)[:, :, None, None], 1)
            better = least[-1] < lowest
            found = torch.where(better[:, None, None], best_of(candidates, costs), found)
            lowest = torch.minimum(lowest, least[-1])
            mean = self.momentum * mean + (1 - self.momentum) * elites.mean(1)
            # A component with a standard deviation of 0, such as VP2's gripper, keeps it.
            narrowed = torch.maximum(elites.std(1), torch.minimum(floor, begun))
            std = self.momentum * std + (1 - self.momentum) * narrowed
            kept = elites[:, : round(self.keep * self.elites)] if self.keep else None
        return Plan(found if self.best else mean, torch.stack(least), kept, mean)

    def _order(self, costs: Float[Tensor, "B S"]) -> Int[Tensor, "B E"]:
        """Indices of the elites, best first; if fewer candidates have a finite cost, these are repeated."""
        finite = costs.isfinite().sum(1, keepdim=True)
        return costs.argsort(1).gather(1, torch.arange(self.elites) % finite)

    def _drawn(
        self,
        i: int,
        mean: Float[Tensor, "B K Da"],
        std: Float[Tensor, "B K Da"],
        limits: Limits,
        generator: Generators,
    ) -> Float[Tensor, "B S K Da"]:
        count = max(round(self.samples * self.shrink**-i), 2 * self.elites, 2)
        noise = coloured_noise((len(mean), count, *mean.shape[1:]), self.exponent, generator)  # type: ignore[arg-type]
        return limits.clip(mean[:, None] + noise * std[:, None])


def icem(**changed: object) -> CEM:
    """Return iCEM: coloured noise, kept elites, fewer candidates in each iteration, best candidate executed."""
    return replace(CEM(exponent=2.0, keep=0.3, shrink=1.25, best=True), **changed)  # type: ignore[arg-type]
