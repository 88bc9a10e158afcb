"""Learned goals: a small classifier of frames in which the goal is reached, from examples (as VP2's for RoboDesk)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from dila.errors import DilaError
from dila.shapes import Float, Tensor

HIDDEN = 16
"""Hidden channels per cell."""
HELD_OUT = 0.2
"""Share of the examples of each class on which accuracy is measured."""


class GoalClassifier(nn.Module):
    """Logit that a goal is reached, from a map of features or structure: an MLP over all cells.

    Args:
        grid: rows and columns of the map.
        dim: channels of the map.
    """

    def __init__(self, grid: tuple[int, int], dim: int):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.cell = nn.Sequential(nn.Linear(dim, HIDDEN), nn.SiLU())
        self.place = nn.Sequential(nn.Flatten(), nn.Linear(grid[0] * grid[1] * HIDDEN, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, maps: Float[Tensor, "N H W C"]) -> Float[Tensor, " N"]:
        """Return logits."""
        return self.place(self.cell((maps.float() - self.mean) / self.std)).squeeze(1)


class Fitted(NamedTuple):
    """A classifier and its accuracy on held-out examples."""

    classifier: GoalClassifier
    accuracy: float


def fit_classifier(
    reached: Float[Tensor, "P H W C"], missed: Float[Tensor, "M H W C"], steps: int = 300, seed: int = 0
) -> Fitted:
    """Train a classifier.

    Args:
        reached: maps in which the goal is reached.
        missed: maps in which it is not.
        steps: steps of full-batch AdamW.
        seed: seed of the weights and of the held-out examples.

    Raises:
        DilaError: there are fewer than two examples of a class.
    """
    if min(len(reached), len(missed)) < 2:
        raise DilaError(
            f"{len(reached)} reached and {len(missed)} missed examples are too few; give at least 2 of each"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        parts = [x[torch.randperm(len(x))].float() for x in (reached, missed)]
        made = GoalClassifier((reached.shape[1], reached.shape[2]), reached.shape[3])
    cuts = [max(1, round(HELD_OUT * len(x))) for x in parts]
    x, held = (torch.cat([p[c:] for p, c in zip(parts, cuts, strict=True)]),
               torch.cat([p[:c] for p, c in zip(parts, cuts, strict=True)]))  # fmt: skip
    sizes = [len(p) - c for p, c in zip(parts, cuts, strict=True)]
    y, truth = (torch.tensor([1.0] * a + [0.0] * b) for a, b in (sizes, cuts))
    made.mean.copy_(x.mean((0, 1, 2)))
    made.std.copy_(x.std((0, 1, 2)).clamp_min(1e-6))
    adam = torch.optim.AdamW(made.parameters(), lr=3e-3, weight_decay=1e-2)
    balance = torch.tensor(sizes[1] / sizes[0])  # equal total weight for both classes
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(made(x), y, pos_weight=balance)
        adam.zero_grad()
        loss.backward()
        adam.step()
    made.eval()
    with torch.no_grad():
        return Fitted(made, float(((made(held) > 0).float() == truth).float().mean()))
