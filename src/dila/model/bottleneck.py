"""Bottleneck, what the IDM says -> z, both B K Dz. The paper's is the width of z alone; the others are its table 2."""

from torch import nn

from dila.model.config import DiLAConfig, Discrete, Gaussian
from dila.nn import bottleneck as blocks


def bottleneck(config: DiLAConfig) -> nn.Module:
    """The map to z, with a penalty and codes where it has them."""
    if isinstance(config.bottleneck, Discrete):
        tokens = config.bottleneck.tokens
        return blocks.Tokens(blocks.NSVQ(config.bottleneck.codes, config.action_dim // tokens), tokens)
    return blocks.Gaussian(config.action_dim) if isinstance(config.bottleneck, Gaussian) else blocks.Open()
