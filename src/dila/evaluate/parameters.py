"""Parameter counts of all models (paper table 8), on torch's meta device, so that no memory is allocated."""

from dataclasses import dataclass
from typing import Any

import torch

from dila.baselines.adaworld_diffusion import published as diffusion
from dila.baselines.presets import BASELINES, PUBLISHED
from dila.interop.models import AnyConfig, build
from dila.model.presets import PRESETS

TABLE_8 = {
    ("dila", "base"): 123_000_000,
    ("lapa", PUBLISHED): 344_000_000,
    ("moto", PUBLISHED): 440_000_000,
    ("adaworld", PUBLISHED): 500_000_000,
    ("adaworld_diffusion", PUBLISHED): 1_500_000_000,
    ("villax", PUBLISHED): 239_000_000,
}
"""As in the paper's table 8: Moto with its frozen part, DiLA without (500M)."""

TOLD = {("moto", PUBLISHED): 120_000_000, ("adaworld", PUBLISHED): 474_708_032}
"""Trainable parameters for which another source is more precise: Moto's own paper, and the sum over AdaWorld's
released code at its released settings (width 1,024, 16 + 16 layers, z of 32; queries, keys and values without bias)."""

FROZEN = {
    ("dila", "base"): 86_583_552 + 415_352_704,
    ("moto", PUBLISHED): 303_301_632,
    ("adaworld_diffusion", PUBLISHED): 474_855_488,
}
"""Frozen parameters of published models: DINOv2 base with registers and RAE's pixel decoder; ViT-MAE-L without its
decoder; AdaWorld's latent action model, as built here."""

COUNTED = {("adaworld_diffusion", PUBLISHED): 1_525_897_962}
"""Trainable parameters of a model that only the extra ``diffusion`` can build."""


@dataclass(frozen=True)
class Size:
    """A row of the table."""

    model: str
    size: str
    features: tuple[int, int, int]
    """Rows, columns and channels of the features it reads and predicts."""
    action_dim: int
    parameters: int
    """Trainable parameters."""
    frozen: int
    """Parameters of the published model's frozen networks."""
    published: int | None
    """Trainable parameters according to its authors or their code, or else to the paper's table 8."""
    table_8: int | None
    """Number in the paper's table 8."""


def sizes() -> list[Size]:
    """Return all models at all their sizes."""
    named: dict[str, dict[str, Any]] = {"dila": {size: make() for size, make in PRESETS.items()}} | BASELINES
    named["adaworld_diffusion"] = {PUBLISHED: diffusion()}
    return [_size(model, size, config) for model, its in named.items() for size, config in its.items()]


def count(config: AnyConfig) -> int:
    """Number of trainable parameters of the model with this config."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters() if parameter.requires_grad)


def _size(model: str, size: str, config: Any) -> Size:
    key, features = (model, size), (*config.grid, config.feature_dim)
    told, trainable = TABLE_8.get(key), COUNTED.get(key) or count(config)
    return Size(
        model, size, features, config.action_dim, trainable, FROZEN.get(key, 0), TOLD.get(key, told), told
    )  # fmt: skip
