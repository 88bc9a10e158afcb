"""The order in which training walks through clips: of one data set or a weighted mixture, in one process or several."""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from dila.errors import DilaError
from dila.shapes import Int, Tensor

CHUNK = 4096
"""Clip numbers turned into Python integers at once: an epoch may have many millions."""


class EpochSampler(Sampler[int]):
    """Every clip once an epoch, or each data set as often as its weight says, in an order fixed by (seed, epoch).

    The state is what the training loop has *used*, which it reports with `advance` after each batch; what loader
    workers fetched ahead does not count. Iterating starts at the next unused clip and ends with the epoch; when the
    epoch is used up, the next iteration is the next epoch.

    An epoch has as many clips as there are, weights or none. With weights it takes of each data set its share,
    mixed. A set that is asked for less than it has gives a fresh choice each epoch; one that is asked for more is
    gone through whole, in a new order, before any of its clips comes again.

    With several processes each owns its own clips for an epoch and repeats only those, so none is seen by two of them.
    So that all take the same number of whole batches, the few clips left over by `world * batch_size` sit out this
    epoch (others will in the next).

    Args:
        lengths: number of clips, or those of each data set; clips are numbered through all of them.
        batch_size: of one process.
        seed: of the order; the same in all processes.
        rank: this process.
        world: number of processes.
        weights: of the data sets, whatever their sum; None takes every clip once.

    Raises:
        DilaError: too few clips for one batch, or in one data set for one in every process; weights that do not fit.
    """

    def __init__(
        self,
        lengths: int | Sequence[int],
        batch_size: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        weights: Sequence[int | float] | None = None,
    ):
        self.lengths = [lengths] if isinstance(lengths, int) else list(lengths)
        if not (batch_size >= 1 and 0 <= rank < world):
            raise DilaError(f"batch_size = {batch_size} must be at least 1 and rank = {rank} in 0 to {world - 1}")
        if sum(self.lengths) < batch_size * world:
            raise DilaError(
                f"{sum(self.lengths)} clips do not fill a batch of {batch_size} in {world} process(es); lower the batch"
            )
        self.weights = None if weights is None else _normalised(weights, self.lengths, world)
        if len(self.lengths) == 1:
            self.weights = None
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.epoch = 0
        self.used = 0

    def order(self, epoch: int) -> list[int]:
        """All clips of this process in an epoch, in order: a pure function of its arguments."""
        return self._order(epoch).tolist()

    def _order(self, epoch: int) -> Int[Tensor, " share"]:
        if self.weights is None:
            return self._walk(epoch, 0, sum(self.lengths), self.share)
        counts = _counts(self.weights, self.share)
        starts = np.cumsum([0, *self.lengths[:-1]]).tolist()
        parts = [
            start + self._walk(epoch, number, length, count)
            for number, (start, length, count) in enumerate(zip(starts, self.lengths, counts, strict=True))
        ]
        return torch.cat(parts)[torch.randperm(self.share, generator=self._generator(epoch, len(parts), self.rank))]

    def _walk(self, epoch: int, number: int, length: int, count: int) -> Int[Tensor, " count"]:
        """This process's clips of one data set, shuffled anew each time that it has gone through them."""
        own = torch.randperm(length, generator=self._generator(epoch, number))[self.rank :: self.world]
        rounds = [own]
        for again in range(1, -(-count // max(1, len(own)))):
            rounds.append(own[torch.randperm(len(own), generator=self._generator(epoch, number, self.rank, again))])
        return torch.cat(rounds)[:count]

    def _generator(self, *key: int) -> torch.Generator:
        seed = np.random.SeedSequence([self.seed, *key]).generate_state(1)[0]
        return torch.Generator().manual_seed(int(seed))

    @property
    def share(self) -> int:
        """Clips of one process in one epoch."""
        return sum(self.lengths) // (self.batch_size * self.world) * self.batch_size

    def __len__(self) -> int:
        return self.share

    def __iter__(self) -> Iterator[int]:
        for part in self._order(self.epoch)[self.used :].split(CHUNK):
            yield from part.tolist()

    def advance(self, clips: int) -> None:
        """Report that this process has used so many more clips; past the end of an epoch the next one begins."""
        total = self.used + clips
        self.epoch += total // self.share
        self.used = total % self.share

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs, JSON-ready."""
        return {key: getattr(self, key) for key in (*_FIXED, "epoch", "used")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, also in another number of processes with the same batch over all.

        Without weights that gives the very clips of each step that the old number would have. With weights each process
        mixes for itself, so that in the epoch at hand a clip may come again or sit out.

        Raises:
            DilaError: the state is of other data sets, weights, seed or batch over all processes.
        """
        given = {key: state.get(key) for key in _FIXED} | {"batch": state["batch_size"] * state["world"]}
        here = {key: getattr(self, key) for key in _FIXED} | {"batch": self.batch_size * self.world}
        for key, value in given.items():
            if key not in ("batch_size", "world") and value != here[key]:
                raise DilaError(f"the checkpoint's sampler has {key} = {value}, this run has {here[key]}")
        self.epoch, self.used = state["epoch"], state["used"] * state["world"] // self.world

    def follow(self, state: dict[str, Any], same: bool) -> None:
        """Go on in a stage of the run, or after another: with its next clips, or the next epoch of others.

        An empty state is that of a run which begins.
        """
        if not state:
            return
        if same or all(state.get(key) == getattr(self, key) for key in ("lengths", "weights", "seed")):
            self.load_state_dict(state)
        else:
            self.epoch, self.used = state["epoch"] + 1, 0


_FIXED = ("lengths", "weights", "batch_size", "seed", "world")


def check_weights(weights: Sequence[int | float], count: int) -> None:
    """See that so many data sets can be mixed by these weights.

    Raises:
        DilaError: there are more or fewer, or one is not above 0.
    """
    if len(weights) != count:
        raise DilaError(f"weights has {len(weights)} numbers for {count} data set(s); give one for each")
    if not all(isfinite(w) and w > 0 for w in weights):
        raise DilaError(f"weights = {' '.join(f'{w:g}' for w in weights)} must all be above 0; leave out unused data")


def _normalised(weights: Sequence[int | float], lengths: Sequence[int], world: int) -> list[float]:
    check_weights(weights, len(lengths))
    if min(lengths) < world:
        raise DilaError(
            f"a data set has {min(lengths)} clips for {world} processes; use fewer processes or leave it out"
        )
    return [float(w) / sum(weights) for w in weights]


def _counts(weights: Sequence[float], share: int) -> list[int]:
    """How many clips of an epoch each data set gives: what its weight says, to the nearest that adds up."""
    exact = [w * share for w in weights]
    counts = [int(x) for x in exact]
    order = sorted(range(len(weights)), key=lambda i: (counts[i] - exact[i], i))
    for number in order[: share - sum(counts)]:
        counts[number] += 1
    return counts
