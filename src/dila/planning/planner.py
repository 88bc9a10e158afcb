"""Interface of planners, which depend on a cost function only, not on a model or a simulator.

Candidates are ``B S K Da``: B environments planned at once, S candidates of each, K actions of Da numbers. All
randomness comes from generators on the CPU, so a seed gives the same plan on every device.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from dila.errors import DilaError
from dila.shapes import Float, Tensor

Generators = torch.Generator | Sequence[torch.Generator]
"""One generator for all environments, or one for each; then a plan does not depend on those planned beside it."""

CostOf = Callable[[Tensor], Tensor]
"""Function from candidates ``B S K Da`` to costs ``B S``; lower is better, and infinity forbids a candidate."""


Numbers = Tensor | np.ndarray | Sequence[float]


@dataclass(frozen=True, init=False)
class Limits:
    """Minimum and maximum of each component of an action.

    Args:
        low: minimum, as a tensor, an array (such as that of Gymnasium's ``Box``) or a list.
        high: maximum, likewise.

    Raises:
        DilaError: the numbers of components differ, a minimum exceeds its maximum, or one is not finite.
    """

    low: Float[Tensor, " Da"]
    high: Float[Tensor, " Da"]

    def __init__(self, low: Numbers, high: Numbers):
        for name, numbers in (("low", low), ("high", high)):
            given = numbers if isinstance(numbers, Tensor) else np.array(numbers)
            object.__setattr__(self, name, torch.as_tensor(given, dtype=torch.float32, device="cpu"))
        told = f"low = {self.low.tolist()} must not exceed high = {self.high.tolist()}"
        if self.low.ndim != 1 or self.low.shape != self.high.shape or not (self.low <= self.high).all():
            raise DilaError(f"{told}; give one minimum and one maximum per component of an action")
        if not (self.low.isfinite() & self.high.isfinite()).all():
            raise DilaError(f"{told}, and both must be finite; give a range such as that of the data")

    @classmethod
    def unit(cls, dim: int) -> "Limits":
        """Return limits of -1 and 1."""
        return cls(-torch.ones(dim), torch.ones(dim))

    @property
    def middle(self) -> Float[Tensor, " Da"]:
        """Middle of the range, the initial plan."""
        return (self.low + self.high) / 2

    @property
    def half(self) -> Float[Tensor, " Da"]:
        """Half the range, the unit of a planner's standard deviations."""
        return (self.high - self.low) / 2

    def clip(self, a: Float[Tensor, "*batch Da"]) -> Float[Tensor, "*batch Da"]:
        """Clip actions to the limits."""
        return torch.minimum(torch.maximum(a, self.low), self.high)


class Plan(NamedTuple):
    """Result of a planner."""

    actions: Float[Tensor, "B K Da"]
    """The planned actions, in order."""
    costs: Float[Tensor, "I B"]
    """Lowest cost among the candidates of each iteration; for `Gradient`, before each step and after the last."""
    kept: Float[Tensor, "B E K Da"] | None = None
    """Candidates to reuse in the next plan, from planners that keep some."""
    mean: Float[Tensor, "B K Da"] | None = None
    """Mean from which the next plan's search starts, shifted by one step; None means the actions."""

    def of(self, environments: list[int]) -> "Plan":
        """Return the plans of these environments only."""
        kept, mean = (None if part is None else part[environments] for part in (self.kept, self.mean))
        return Plan(self.actions[environments], self.costs[:, environments], kept, mean)

    def later(self, steps: int) -> "Plan":
        """Return the plan shifted by ``steps``, with the same length; its last action is repeated at the end."""
        parts = (self.actions, self.kept, self.mean)
        actions, kept, mean = (part if part is None else shifted(part, part.shape[-2], steps) for part in parts)
        assert actions is not None
        return Plan(actions, self.costs, kept, mean)


@runtime_checkable
class Planner(Protocol):
    """A search over actions: `MPPI`, `CEM`, `Gradient`, or the random `Blind`."""

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
        """Return the best actions found for ``batch`` environments.

        Args:
            cost: cost of candidates.
            horizon: number of actions K.
            limits: action limits.
            generator: source of randomness, on the CPU: one generator, or one for each environment.
            batch: number of environments B.
            warm: previous plan, whose first action has been executed; its horizon may differ.
            seconds: time limit; the iteration during which it expires is finished. None uses the planner's number of
                iterations.

        Raises:
            DilaError: a cost is NaN, all costs of an environment are infinite, or ``warm`` is of another batch.
        """
        ...


@dataclass(frozen=True)
class Blind:
    """Lower bound: one random proposal of `MPPI`, without evaluating a cost.

    Args:
        std: see `MPPI`.
        memory: see `MPPI`.
    """

    std: float | Sequence[float] = 0.5
    memory: float = 0.5

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
        """Return random actions; see `Planner.plan`."""
        std = deviations(self.std, limits)
        noise = smooth_noise((batch, 1, horizon, len(std)), self.memory, generator)[:, 0]
        return Plan(limits.clip(limits.middle + noise * std), torch.zeros(0, batch))


def check_search(samples: int, iterations: int) -> None:
    """Raise DilaError if there are no samples or no iterations."""
    if min(samples, iterations) < 1:
        raise DilaError(f"samples = {samples} and iterations = {iterations} must be at least 1")


def deviations(std: float | Sequence[float], limits: Limits) -> Float[Tensor, " Da"]:
    """Convert standard deviations from fractions of half the range to the units of the actions.

    Raises:
        DilaError: the number of components differs, or a number is negative or not finite.
    """
    shares = torch.tensor(std, dtype=torch.float32)
    if not ((shares >= 0) & shares.isfinite()).all():
        raise DilaError(f"std = {std} must be 0 or more, and finite")
    if shares.ndim and shares.shape != limits.low.shape:
        raise DilaError(
            f"std has {len(shares)} numbers, but actions have {len(limits.low)} components; give one, or one for each"
        )
    return shares.expand_as(limits.low) * limits.half


def smooth_noise(shape: tuple[int, int, int, int], memory: float, generator: Generators) -> Float[Tensor, "B S K Da"]:
    """Correlated noise: n[0] is standard normal, n[i] = memory n[i-1] + (1 - memory) normal (VP2's sampler)."""
    white = _normal(shape, generator)
    steps = [white[:, :, 0]]
    for i in range(1, shape[2]):
        steps.append(memory * steps[-1] + (1 - memory) * white[:, :, i])
    return torch.stack(steps, dim=2)


def _normal(shape: tuple[int, int, int, int], generator: Generators) -> Float[Tensor, "B S K Da"]:
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator)
    if len(generator) != shape[0]:
        raise DilaError(f"there are {len(generator)} generators for {shape[0]} environments; give one, or one for each")
    drawn = torch.empty(shape)
    for its, own in zip(drawn, generator, strict=True):
        its.normal_(generator=own)
    return drawn


def coloured_noise(
    shape: tuple[int, int, int, int], exponent: float, generator: Generators
) -> Float[Tensor, "B S K Da"]:
    """Noise of unit variance with the power spectrum 1 / f^exponent over the actions of a candidate; 0 is white.

    White noise of twice the length is filtered in the frequency domain, and half of it is kept, because filtered noise
    is periodic: a candidate's end would resemble its beginning.
    """
    batch, samples, horizon, dim = shape
    white = _normal((batch, samples, 2 * horizon, dim), generator)
    frequency = torch.fft.rfftfreq(2 * horizon).clamp_min(1 / (2 * horizon))
    gain = frequency ** (-exponent / 2)
    twice = torch.full_like(gain, 2.0)  # all frequencies but the first and last occur twice in the full spectrum
    twice[0] = twice[-1] = 1.0
    gain = gain / ((gain.square() * twice).sum() / (2 * horizon)).sqrt()
    return torch.fft.irfft(torch.fft.rfft(white, dim=2) * gain[:, None], n=2 * horizon, dim=2)[:, :, :horizon]


def shifted(actions: Float[Tensor, "*batch J Da"], horizon: int, by: int = 1) -> Float[Tensor, "*batch K Da"]:
    """Shift a plan by ``by`` steps to ``horizon`` actions: the first are dropped, the last is repeated at the end."""
    return actions[..., torch.arange(by, by + horizon).clamp_max(actions.shape[-2] - 1), :]


def beginning(warm: Plan | None, batch: int, horizon: int, limits: Limits) -> Float[Tensor, "B K Da"]:
    """Return the initial mean of a search: that of the previous plan, shifted by a step, or the middle of the range.

    Raises:
        DilaError: the horizon is below 1, or the previous plan has another batch size or number of components.
    """
    if horizon < 1:
        raise DilaError(f"horizon = {horizon}, the number of planned actions, must be at least 1")
    if warm is None:
        return limits.middle.expand(batch, horizon, -1).clone()
    before = warm.actions if warm.mean is None else warm.mean
    count, _, dim = before.shape
    if (count, dim) != (batch, len(limits.low)):
        raise DilaError(
            f"warm is a plan of {count} environments and actions of {dim} components, not of {batch} and "
            f"{len(limits.low)}; give the previous plan of the same environments, or None"
        )
    return shifted(before, horizon)


def asked(cost: CostOf, candidates: Float[Tensor, "B S K Da"]) -> Float[Tensor, "B S"]:
    """Evaluate the cost of candidates, and check it.

    Raises:
        DilaError: the costs have another shape, or one is NaN or minus infinity.
    """
    costs = cost(candidates)
    if costs.shape != candidates.shape[:2]:
        raise DilaError(
            f"the cost returned shape {list(costs.shape)} for candidates {list(candidates.shape[:2])}; return one "
            "number per candidate"
        )
    if wrong := int((costs.isnan() | costs.isneginf()).sum()):
        raise DilaError(
            f"the cost of {wrong} of {costs.numel()} candidates is NaN or minus infinity; return a finite number, or "
            "infinity to forbid a candidate"
        )
    return costs


def possible(least: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the lowest costs of environments after checking that they are finite.

    Raises:
        DilaError: all candidates of an environment have an infinite cost.
    """
    if least.isinf().any():
        raise DilaError(
            f"all candidates of environment {int(least.isinf().nonzero()[0])} have an infinite cost; give more samples "
            "or a larger std, or return finite costs for allowed candidates"
        )
    return least


def rounds(iterations: int, seconds: float | None) -> Iterator[int]:
    """Count iterations, up to ``iterations``, or until ``seconds`` have passed, but at least one."""
    if seconds is None:
        yield from range(iterations)
        return
    end = time.monotonic() + seconds
    for i in count():
        yield i
        if time.monotonic() >= end:
            return


def best_of(candidates: Float[Tensor, "B S K Da"], costs: Float[Tensor, "B S"]) -> Float[Tensor, "B K Da"]:
    """Return the candidate with the lowest cost of each environment."""
    return candidates[torch.arange(len(costs)), costs.argmin(1)]
