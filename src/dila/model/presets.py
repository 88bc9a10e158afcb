"""Model sizes by name. `base` is the paper's; `small` fits one GPU; `tiny` trains on two CPU cores in minutes."""

from collections.abc import Callable

from dila.errors import DilaError
from dila.model.config import (
    BackboneConfig,
    DiLAConfig,
    ForwardDynamicsConfig,
    FusionDecoderConfig,
    InverseDynamicsConfig,
    MemoryConfig,
)


def base() -> DiLAConfig:
    """The paper's model on 16 x 16 x 768 features: 123M parameters, with every choice as in the paper."""
    return DiLAConfig()


def small() -> DiLAConfig:
    """51M parameters on 768 feature channels; trains on one GPU."""
    return DiLAConfig(
        structure_dim=32,
        content_dim=128,
        action_dim=128,
        mlp_hidden=384,
        backbone=BackboneConfig(2, 2, 6, 64),
        memory=MemoryConfig(depth=2, state_dim=16),
        idm=InverseDynamicsConfig(channels=(32, 64, 128, 256), blocks=(1, 1, 1, 1), hidden=512),
        fdm=ForwardDynamicsConfig(dim=192, depth=3, heads=6),
        decoder=FusionDecoderConfig(depth=2, heads=6),
    )


def tiny() -> DiLAConfig:
    """Trains on two CPU cores in minutes, on the 8 x 8 x 272 features of the embedded encoder."""
    return DiLAConfig(
        grid=(8, 8),
        feature_dim=272,
        structure_dim=16,
        content_dim=64,
        action_dim=32,
        width=128,
        mlp_hidden=128,
        dropout=0.0,
        time_padding="replicate",
        backbone=BackboneConfig(1, 1, 4, 32),
        memory=MemoryConfig(depth=1, state_dim=8),
        idm=InverseDynamicsConfig((32, 64, 64), (0, 0, 0), 256, dropout=0.0, pairwise=True, normalise=False, odd=True),
        fdm=ForwardDynamicsConfig(dim=96, depth=2, heads=3, dropout=0.0),
        decoder=FusionDecoderConfig(depth=2, heads=4, predicts="change"),
    )


PRESETS: dict[str, Callable[[], DiLAConfig]] = {"base": base, "small": small, "tiny": tiny}


def preset(name: str) -> DiLAConfig:
    """Return the config with this name. Raises DilaError if it is unknown."""
    if name not in PRESETS:
        raise DilaError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()
