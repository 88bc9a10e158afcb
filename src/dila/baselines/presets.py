"""Baseline configs by name: ``published``, on the pixels that each was published with, and DiLA's sizes.

``small`` and ``tiny`` have the number of trainable parameters of DiLA's presets of these names within 10%, on the same
features, with each model's own bottleneck and, as far as so few layers allow, its proportions. ``tiny`` predicts the
change of the frame, as DiLA's does, which accounts for most of the result in short runs.
"""

from typing import Any

from dila.baselines.adaworld import AdaWorldConfig
from dila.baselines.lapa import LAPAConfig
from dila.baselines.moto import MotoConfig
from dila.baselines.villax import VillaXConfig
from dila.errors import DilaError

PUBLISHED, SMALL, TINY = "published", "small", "tiny"

_SMALL: dict[str, Any] = {"grid": (16, 16), "feature_dim": 768, "predicts": "features"}
_TINY: dict[str, Any] = {"grid": (8, 8), "feature_dim": 272, "predicts": "change"}

BASELINES: dict[str, dict[str, Any]] = {
    "lapa": {
        PUBLISHED: LAPAConfig(),
        SMALL: LAPAConfig(**_SMALL, width=512, heads=8, spatial_depth=5, temporal_depth=5, decoder_depth=5),
        TINY: LAPAConfig(**_TINY, width=160, heads=4, head_dim=40, spatial_depth=2, temporal_depth=2, decoder_depth=2),
    },
    "moto": {
        PUBLISHED: MotoConfig(lift=768, reads="facebook/vit-mae-large"),
        SMALL: MotoConfig(**_SMALL, width=512, heads=8),
        TINY: MotoConfig(**_TINY, width=144, heads=4, encoder_depth=2, decoder_depth=6),
    },
    "adaworld": {
        PUBLISHED: AdaWorldConfig(),
        SMALL: AdaWorldConfig(**_SMALL, width=512, heads=8, encoder_depth=7, decoder_depth=7),
        TINY: AdaWorldConfig(**_TINY, width=152, heads=4, encoder_depth=3, decoder_depth=3),
    },
    "villax": {
        PUBLISHED: VillaXConfig(),
        SMALL: VillaXConfig(
            **_SMALL,
            width=512,
            pool_heads=16,
            encoder_depth=7,
            decoder_width=512,
            decoder_heads=8,
            decoder_hidden=1792,
            decoder_depth=5,
        ),
        TINY: VillaXConfig(
            **_TINY,
            width=128,
            heads=4,
            pool_heads=4,
            encoder_depth=4,
            decoder_width=128,
            decoder_heads=4,
            decoder_hidden=448,
            decoder_depth=3,
        ),
    },
}
"""Configs by model and size."""


def baseline(name: str, size: str) -> Any:
    """Return the config of a baseline at a size. Raises DilaError if either is unknown."""
    if name not in BASELINES:
        raise DilaError(f"there is no baseline {name!r}: choose one of {', '.join(BASELINES)}")
    if size not in BASELINES[name]:
        raise DilaError(f"baseline {name} has no size {size!r}: choose one of {', '.join(BASELINES[name])}")
    return BASELINES[name][size]
