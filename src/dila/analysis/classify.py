"""Linear probe for classes (an object's shape, its texture): ridge regression to the one-hot label."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from dila.analysis.intervals import Interval, mean_interval
from dila.analysis.probe import predict
from dila.errors import DilaError
from dila.shapes import Bool, Float, Int, Tensor


class Classified(NamedTuple):
    """Rescaled accuracy on held-out rows whose class occurs in training, comparable to R².

    0 is the accuracy of always predicting the most frequent training class, 1 is no error.
    """

    above_chance: float
    interval: Interval | None
    """None for a single held-out episode."""
    rows: int


def classify(
    x: Float[Tensor, "N Dx"],
    label: Int[Tensor, " N"],
    episode: Int[Tensor, " N"],
    held_out: Bool[Tensor, " N"],
    seed: int = 0,
) -> Classified:
    """Fit on some episodes, and score on the others.

    Raises:
        DilaError: there are fewer than two training classes, no held-out row of one of them, or as in `predict`.
    """
    known = label[~held_out].unique()
    test = held_out & torch.isin(label, known)
    if len(known) < 2 or not test.any():
        raise DilaError(
            f"a class probe needs at least 2 training classes and 1 held-out row of them, but there are {len(known)} "
            f"and {int(test.sum())}; give more episodes"
        )
    place = torch.searchsorted(known, label.clamp(known[0], known[-1]))
    hot = F.one_hot(place[~held_out], len(known)).double()
    told = predict(x[~held_out], hot, episode[~held_out], x[test], seed).argmax(1)
    right = (told == place[test]).double()
    most = hot.sum(0).argmax()
    chance = float((place[test] == most).double().mean())
    accuracy, interval = float(right.mean()), mean_interval(right, episode[test])
    edges = interval and Interval(*(_above(edge, chance) for edge in interval))
    return Classified(_above(accuracy, chance), edges, len(right))


def _above(accuracy: float, chance: float) -> float:
    return (accuracy - chance) / max(1 - chance, 1e-9)
