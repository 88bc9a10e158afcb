"""How well a class (an object's shape, its texture) is told by a linear map: ridge regression to the one-hot label."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dila.analysis.intervals import Interval, mean_interval
from dila.analysis.probe import predict
from dila.errors import DilaError
from dila.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Classified:
    """Scores on held-out episodes, of those rows whose class was trained on."""

    accuracy: float
    interval: Interval | None
    """None for one held-out episode."""
    chance: float
    """Accuracy of always saying the class most frequent in training."""
    classes: int
    test_rows: int

    @property
    def above_chance(self) -> float:
        """0 at chance, 1 at no error: comparable to R²."""
        return (self.accuracy - self.chance) / max(1 - self.chance, 1e-9)


def classify(
    x: Float[Tensor, "N Dx"],
    label: Int[Tensor, " N"],
    episode: Int[Tensor, " N"],
    held_out: Bool[Tensor, " N"],
    seed: int = 0,
) -> Classified:
    """Fit on some episodes, score on the others.

    Raises:
        DilaError: fewer than two classes in training, or no held-out row of one of them.
    """
    known = label[~held_out].unique()
    test = held_out & torch.isin(label, known)
    if len(known) < 2 or not test.any():
        raise DilaError(f"there are {len(known)} classes in training and {int(test.sum())} rows to score; give more")
    place = torch.searchsorted(known, label.clamp(known[0], known[-1]))
    hot = F.one_hot(place[~held_out], len(known)).double()
    told = predict(x[~held_out], hot, episode[~held_out], x[test], seed).argmax(1)
    right = (told == place[test]).double()
    most = hot.sum(0).argmax()
    return Classified(
        float(right.mean()),
        mean_interval(right, episode[test]),
        float((place[test] == most).double().mean()),
        len(known),
        int(test.sum()),
    )
