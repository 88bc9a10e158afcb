"""Bottleneck, IDM output -> z, both B K Dz. The paper only limits the width of z; the others are from its table 2."""

from torch import nn

from dila.model.config import DiLAConfig, Discrete, Gaussian
from dila.nn import bottleneck as blocks


def bottleneck(config: DiLAConfig) -> nn.Module:
    """Return the module that maps IDM outputs to z, with its penalty and codes if it has any."""
    if isinstance(config.bottleneck, Discrete):
        tokens = config.bottleneck.tokens
        return blocks.Tokens(blocks.NSVQ(config.bottleneck.codes, config.action_dim // tokens), tokens)
    return blocks.Gaussian(config.action_dim) if isinstance(config.bottleneck, Gaussian) else blocks.Open()
