"""How large each model is (paper table 8): counted on torch's meta device, so that nothing is made."""

from dataclasses import dataclass
from typing import Any

import torch

from dila.baselines.presets import BASELINES, PUBLISHED
from dila.interop.models import AnyConfig, build
from dila.model.presets import PRESETS

TOLD = {
    ("dila", "base"): 123_000_000,
    ("lapa", PUBLISHED): 344_000_000,
    ("moto", PUBLISHED): 120_000_000,
    ("adaworld", PUBLISHED): 470_000_000,
    ("villax", PUBLISHED): 239_000_000,
}
"""Trainable parameters as published: table 8, but Moto's without its frozen ViT-MAE (440M with it) and AdaWorld's as
its layers add up (table 8 rounds to 500M)."""


@dataclass(frozen=True)
class Size:
    """A row of the table."""

    model: str
    size: str
    features: tuple[int, int, int]
    """Rows, columns and channels of what it reads and predicts."""
    action_dim: int
    parameters: int
    published: int | None


def sizes() -> list[Size]:
    """All models at all their sizes."""
    named: dict[str, dict[str, Any]] = {"dila": {size: make() for size, make in PRESETS.items()}} | BASELINES
    return [
        Size(model, size, (*config.grid, config.feature_dim), config.action_dim, count(config), TOLD.get((model, size)))
        for model, its in named.items()
        for size, config in its.items()
    ]


def count(config: AnyConfig) -> int:
    """Trainable parameters of the model that a config makes."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters() if parameter.requires_grad)
