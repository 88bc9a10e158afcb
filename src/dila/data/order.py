"""The order of clips in training: of one data set or a weighted mixture, in one process or several."""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from dila.errors import DilaError
from dila.shapes import Int, Tensor

CHUNK = 4096
"""Clip numbers converted to Python integers at a time, since an epoch may have millions."""


class EpochSampler(Sampler[int]):
    """Sampler of every clip once per epoch, or of data sets by weight, in an order fixed by (seed, epoch).

    The state counts the clips that the training loop has *used*, which it reports with `advance` after each batch;
    clips that loader workers have prefetched do not count. Iteration starts at the next unused clip and ends with the
    epoch; the next iteration is then the next epoch.

    The length of an epoch is the total number of clips, with or without weights. With weights, each data set gets its
    share of the epoch, mixed. A data set with more clips than its share gives a new random subset each epoch; one with
    fewer is traversed completely, in a new order each time, before any of its clips is repeated.

    With several processes, each owns a part of the clips for an epoch and repeats only those, so no clip is seen by two
    processes. The few clips that remain after division by `world * batch_size` are left out of the epoch, so that all
    processes take the same number of full batches; the next epoch leaves out others.

    Args:
        lengths: number of clips, in total or of each data set; clips are numbered over all data sets.
        batch_size: clips per batch and process.
        seed: seed of the order; the same in all processes.
        rank: index of this process.
        world: number of processes.
        weights: relative weights of the data sets; None takes every clip once.

    Raises:
        DilaError: there are too few clips for one batch, a data set has fewer clips than there are processes, or the
            weights are invalid.
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
                f"{sum(self.lengths)} clips do not fill a batch of {batch_size} in {world} process(es); lower it"
            )
        self.weights = None if weights is None else _normalised(weights, self.lengths, world)
        if len(self.lengths) == 1:
            self.weights = None
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.epoch = 0
        self.used = 0

    def order(self, epoch: int) -> list[int]:
        """Return all clips of this process in an epoch, in order, independent of the state."""
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
        """Return `count` clips of one data set for this process, reshuffled after each complete pass."""
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
        """Number of clips of one process in an epoch."""
        return sum(self.lengths) // (self.batch_size * self.world) * self.batch_size

    def __len__(self) -> int:
        return self.share

    def __iter__(self) -> Iterator[int]:
        for part in self._order(self.epoch)[self.used :].split(CHUNK):
            yield from part.tolist()

    def advance(self, clips: int) -> None:
        """Count `clips` more clips as used by this process; past the end of an epoch, the next one begins."""
        total = self.used + clips
        self.epoch += total // self.share
        self.used = total % self.share

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume, JSON-ready."""
        return {key: getattr(self, key) for key in (*_FIXED, "epoch", "used")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict`, also with another number of processes if the global batch size is the same.

        Without weights, each step then has exactly the clips that it would have had before. With weights, each process
        mixes its own clips, so in the current epoch a clip may be repeated or left out.

        Raises:
            DilaError: the state has other data sets, weights, seed or global batch size.
        """
        given = {key: state.get(key) for key in _FIXED} | {"batch": state["batch_size"] * state["world"]}
        here = {key: getattr(self, key) for key in _FIXED} | {"batch": self.batch_size * self.world}
        for key, value in given.items():
            if key not in ("batch_size", "world") and value != here[key]:
                raise DilaError(f"the sampler of the checkpoint has {key} = {value}, but this run has {here[key]}")
        self.epoch, self.used = state["epoch"], state["used"] * state["world"] // self.world

    def follow(self, state: dict[str, Any], same: bool) -> None:
        """Continue a stage of a run if `same`, else start a new stage after the one of `state`.

        A new stage with the same data, weights and seed takes the next clips; any other starts at the next epoch. An
        empty state leaves the sampler at the start.
        """
        if not state:
            return
        if same or all(state.get(key) == getattr(self, key) for key in ("lengths", "weights", "seed")):
            self.load_state_dict(state)
        else:
            self.epoch, self.used = state["epoch"] + 1, 0


_FIXED = ("lengths", "weights", "batch_size", "seed", "world")


def check_weights(weights: Sequence[int | float], count: int) -> None:
    """Check the weights of a mixture of `count` data sets.

    Raises:
        DilaError: their number differs from `count`, or one is not above 0.
    """
    if len(weights) != count:
        raise DilaError(f"weights has {len(weights)} numbers for {count} data set(s); give one for each")
    if not all(isfinite(w) and w > 0 for w in weights):
        raise DilaError(f"weights = {' '.join(f'{w:g}' for w in weights)} must all be above 0; remove unused data")


def _normalised(weights: Sequence[int | float], lengths: Sequence[int], world: int) -> list[float]:
    check_weights(weights, len(lengths))
    if min(lengths) < world:
        raise DilaError(f"a data set has {min(lengths)} clips for {world} processes; use fewer processes or remove it")
    return [float(w) / sum(weights) for w in weights]


def _counts(weights: Sequence[float], share: int) -> list[int]:
    """Return how many clips each data set contributes to an epoch: weight times share, rounded to the exact sum."""
    exact = [w * share for w in weights]
    counts = [int(x) for x in exact]
    order = sorted(range(len(weights)), key=lambda i: (counts[i] - exact[i], i))
    for number in order[: share - sum(counts)]:
        counts[number] += 1
    return counts
