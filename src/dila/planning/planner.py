"""What a planner is: candidates in, the best actions out. It knows a cost, never a model or a simulator.

Candidates are ``B S K Da``: B environments planned at once, S candidates of each, K actions of Da numbers. Everything
random comes from generators on the CPU, so a seed means the same plan on every device.
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
"""One for all environments, or one for each, whose plan is then the same whatever is planned beside it."""

CostOf = Callable[[Tensor], Tensor]
"""Costs ``B S`` of candidates ``B S K Da``; lower is better, and infinity is for what must never be done."""


Numbers = Tensor | np.ndarray | Sequence[float]


@dataclass(frozen=True, init=False)
class Limits:
    """The least and the greatest of each component of an action.

    Args:
        low: as a tensor, an array, such as that of Gymnasium's ``Box``, or a list.
        high: the same.

    Raises:
        DilaError: of other components, a least that is above its greatest, or one that is infinite.
    """

    low: Float[Tensor, " Da"]
    high: Float[Tensor, " Da"]

    def __init__(self, low: Numbers, high: Numbers):
        for name, numbers in (("low", low), ("high", high)):
            given = numbers if isinstance(numbers, Tensor) else np.array(numbers)
            object.__setattr__(self, name, torch.as_tensor(given, dtype=torch.float32, device="cpu"))
        told = f"low = {self.low.tolist()} should be nowhere above high = {self.high.tolist()}"
        if self.low.ndim != 1 or self.low.shape != self.high.shape or not (self.low <= self.high).all():
            raise DilaError(f"{told}; give each component of an action its least and its greatest")
        if not (self.low.isfinite() & self.high.isfinite()).all():
            raise DilaError(f"{told}, and both finite; give a range that is worth searching, such as that of the data")

    @classmethod
    def unit(cls, dim: int) -> "Limits":
        """From -1 to 1."""
        return cls(-torch.ones(dim), torch.ones(dim))

    @property
    def middle(self) -> Float[Tensor, " Da"]:
        """Where plans begin."""
        return (self.low + self.high) / 2

    @property
    def half(self) -> Float[Tensor, " Da"]:
        """Half the range: the unit of a planner's deviations."""
        return (self.high - self.low) / 2

    def clip(self, a: Float[Tensor, "*batch Da"]) -> Float[Tensor, "*batch Da"]:
        """Actions brought within."""
        return torch.minimum(torch.maximum(a, self.low), self.high)


class Plan(NamedTuple):
    """What a planner found."""

    actions: Float[Tensor, "B K Da"]
    """To be executed from the first on."""
    costs: Float[Tensor, "I B"]
    """The least cost among the candidates of each iteration; of `Gradient` before each step, and after the last."""
    kept: Float[Tensor, "B E K Da"] | None = None
    """Good candidates that the next plan begins with; only of planners that keep some."""
    mean: Float[Tensor, "B K Da"] | None = None
    """Where the next plan's search begins, a step later; None where that is at the actions."""

    def of(self, environments: list[int]) -> "Plan":
        """The plans of these environments alone."""
        kept, mean = (None if part is None else part[environments] for part in (self.kept, self.mean))
        return Plan(self.actions[environments], self.costs[:, environments], kept, mean)

    def later(self, steps: int) -> "Plan":
        """The plan so many steps on, as long as it is: its last action is repeated to the end."""
        parts = (self.actions, self.kept, self.mean)
        actions, kept, mean = (part if part is None else shifted(part, part.shape[-2], steps) for part in parts)
        assert actions is not None
        return Plan(actions, self.costs, kept, mean)


@runtime_checkable
class Planner(Protocol):
    """A search over actions: `MPPI`, `CEM`, `Gradient`, or the blind `Blind`."""

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
        """The best actions found for ``batch`` environments.

        Args:
            cost: of candidates.
            horizon: K.
            limits: of actions.
            generator: of everything random, on the CPU: one, or one for each environment, as the loop gives them.
            batch: B.
            warm: the plan before, whose first action has been executed; its horizon may have been another.
            seconds: stop after the iteration during which they are up; without, after the planner's own number.

        Raises:
            DilaError: a cost is NaN, all those of an environment are infinite, or ``warm`` is of another batch.
        """
        ...


@dataclass(frozen=True)
class Blind:
    """The lower bound: the proposals of `MPPI`, one drawn and executed, no cost asked.

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
        """Random actions; see `Planner.plan`."""
        std = deviations(self.std, limits)
        noise = smooth_noise((batch, 1, horizon, len(std)), self.memory, generator)[:, 0]
        return Plan(limits.clip(limits.middle + noise * std), torch.zeros(0, batch))


def check_search(samples: int, iterations: int) -> None:
    """Raises DilaError for a search that tries nothing."""
    if min(samples, iterations) < 1:
        raise DilaError(f"samples = {samples} and iterations = {iterations} should be at least 1")


def deviations(std: float | Sequence[float], limits: Limits) -> Float[Tensor, " Da"]:
    """Standard deviations in the units of the actions, from shares of half their range.

    Raises:
        DilaError: a number for each component of another action, or one that is no deviation.
    """
    shares = torch.tensor(std, dtype=torch.float32)
    if not ((shares >= 0) & shares.isfinite()).all():
        raise DilaError(f"std = {std} should be 0 or more, and finite")
    if shares.ndim and shares.shape != limits.low.shape:
        raise DilaError(f"std has {len(shares)} numbers for actions of {len(limits.low)}; give one, or one for each")
    return shares.expand_as(limits.low) * limits.half


def smooth_noise(shape: tuple[int, int, int, int], memory: float, generator: Generators) -> Float[Tensor, "B S K Da"]:
    """Noise that remembers: n[0] is standard normal, n[i] = memory n[i-1] + (1 - memory) normal (VP2's sampler)."""
    white = _normal(shape, generator)
    steps = [white[:, :, 0]]
    for i in range(1, shape[2]):
        steps.append(memory * steps[-1] + (1 - memory) * white[:, :, i])
    return torch.stack(steps, dim=2)


def _normal(shape: tuple[int, int, int, int], generator: Generators) -> Float[Tensor, "B S K Da"]:
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator)
    if len(generator) != shape[0]:
        raise DilaError(f"{len(generator)} generators for {shape[0]} environments; give one, or one for each")
    drawn = torch.empty(shape)
    for its, own in zip(drawn, generator, strict=True):
        its.normal_(generator=own)
    return drawn


def coloured_noise(
    shape: tuple[int, int, int, int], exponent: float, generator: Generators
) -> Float[Tensor, "B S K Da"]:
    """Noise of unit variance with the spectrum 1 / f^exponent over the actions of a candidate; 0 is white.

    White noise filtered in the frequency domain over twice the length, of which half is kept, so that a candidate's
    end does not resemble its beginning.
    """
    batch, samples, horizon, dim = shape
    white = _normal((batch, samples, 2 * horizon, dim), generator)
    frequency = torch.fft.rfftfreq(2 * horizon).clamp_min(1 / (2 * horizon))
    gain = frequency ** (-exponent / 2)
    twice = torch.full_like(gain, 2.0)  # but the first and the last, every frequency stands for two of the spectrum
    twice[0] = twice[-1] = 1.0
    gain = gain / ((gain.square() * twice).sum() / (2 * horizon)).sqrt()
    return torch.fft.irfft(torch.fft.rfft(white, dim=2) * gain[:, None], n=2 * horizon, dim=2)[:, :, :horizon]


def shifted(actions: Float[Tensor, "*batch J Da"], horizon: int, by: int = 1) -> Float[Tensor, "*batch K Da"]:
    """A plan so many steps later, of so many actions: the first ones are gone, the last one is repeated to the end."""
    return actions[..., torch.arange(by, by + horizon).clamp_max(actions.shape[-2] - 1), :]


def beginning(warm: Plan | None, batch: int, horizon: int, limits: Limits) -> Float[Tensor, "B K Da"]:
    """The mean that a search begins at: that of the plan before, a step later, or the middle of the range.

    Raises:
        DilaError: no action to plan, or the plan before is of another batch or other actions.
    """
    if horizon < 1:
        raise DilaError(f"horizon = {horizon} should be at least 1: a plan is of so many actions")
    if warm is None:
        return limits.middle.expand(batch, horizon, -1).clone()
    before = warm.actions if warm.mean is None else warm.mean
    count, _, dim = before.shape
    if (count, dim) != (batch, len(limits.low)):
        raise DilaError(
            f"warm is a plan of {count} environments and actions of {dim} numbers, not of {batch} and "
            f"{len(limits.low)}; give the plan of the same environments, or none"
        )
    return shifted(before, horizon)


def asked(cost: CostOf, candidates: Float[Tensor, "B S K Da"]) -> Float[Tensor, "B S"]:
    """What the cost says of candidates.

    Raises:
        DilaError: not one number for each, or one that nothing can be compared with.
    """
    costs = cost(candidates)
    if costs.shape != candidates.shape[:2]:
        raise DilaError(
            f"a cost gave numbers {list(costs.shape)} for candidates {list(candidates.shape[:2])}; give one for each"
        )
    if wrong := int((costs.isnan() | costs.isneginf()).sum()):
        raise DilaError(
            f"the cost of {wrong} of {costs.numel()} candidates is NaN or minus infinity; give a number, or infinity "
            "for what must never be done"
        )
    return costs


def possible(least: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The least cost of each environment, which has to be a finite one.

    Raises:
        DilaError: all candidates of an environment have an infinite cost.
    """
    if least.isinf().any():
        raise DilaError(
            f"all candidates of environment {int(least.isinf().nonzero()[0])} have an infinite cost, so there is "
            "nothing to do; give more samples, a larger std, or a finite cost to what may be done"
        )
    return least


def rounds(iterations: int, seconds: float | None) -> Iterator[int]:
    """Numbers of iterations: so many, or until the time is up, at least one."""
    if seconds is None:
        yield from range(iterations)
        return
    end = time.monotonic() + seconds
    for i in count():
        yield i
        if time.monotonic() >= end:
            return


def best_of(candidates: Float[Tensor, "B S K Da"], costs: Float[Tensor, "B S"]) -> Float[Tensor, "B K Da"]:
    """The cheapest candidate of each environment."""
    return candidates[torch.arange(len(costs)), costs.argmin(1)]
