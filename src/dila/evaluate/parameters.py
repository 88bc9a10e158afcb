"""How large each model is (paper table 8): counted on torch's meta device, so that nothing is made."""

from dataclasses import dataclass
from typing import Any

import torch

from dila.baselines.presets import BASELINES, PUBLISHED
from dila.interop.models import AnyConfig, build
from dila.model.presets import PRESETS

TABLE_8 = {
    ("dila", "base"): 123_000_000,
    ("lapa", PUBLISHED): 344_000_000,
    ("moto", PUBLISHED): 440_000_000,
    ("adaworld", PUBLISHED): 500_000_000,
    ("villax", PUBLISHED): 239_000_000,
}
"""As the paper's table 8 has them: Moto's with its frozen part, DiLA's without (500M of encoder and pixel decoder)."""

TOLD = {("moto", PUBLISHED): 120_000_000, ("adaworld", PUBLISHED): 474_708_032}
"""Trainable parameters where another source is closer: Moto's own paper, and the sum over AdaWorld's released code at
its released settings (width 1,024, 16 layers and 16, z of 32), which has no biases on queries, keys and values."""

FROZEN = {("moto", PUBLISHED): 303_301_632}
"""Parameters that a published model reads through and does not train: ViT-MAE-L without its decoder."""


@dataclass(frozen=True)
class Size:
    """A row of the table."""

    model: str
    size: str
    features: tuple[int, int, int]
    """Rows, columns and channels of what it reads and predicts."""
    action_dim: int
    parameters: int
    """Trainable ones."""
    frozen: int
    """Of networks that belong to the published model and stay as they are."""
    published: int | None
    """Trainable ones as its authors or their code have them, or the paper's number where that is all there is."""
    table_8: int | None
    """As the paper has it."""


def sizes() -> list[Size]:
    """All models at all their sizes."""
    named: dict[str, dict[str, Any]] = {"dila": {size: make() for size, make in PRESETS.items()}} | BASELINES
    return [_size(model, size, config) for model, its in named.items() for size, config in its.items()]


def count(config: AnyConfig) -> int:
    """Trainable parameters of the model that a config makes."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters() if parameter.requires_grad)


def _size(model: str, size: str, config: Any) -> Size:
    key, features = (model, size), (*config.grid, config.feature_dim)
    told = TABLE_8.get(key)
    return Size(
        model, size, features, config.action_dim, count(config), FROZEN.get(key, 0), TOLD.get(key, told), told
    )  # fmt: skip
