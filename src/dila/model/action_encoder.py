"""Action encoder, a -> z: real actions in place of the IDM (paper section 3, third stage).

a  B K Da   real actions
z  B K Dz   latent actions
"""

from torch import nn

from dila.model.config import DiLAConfig


def action_encoder(config: DiLAConfig) -> nn.Sequential:
    """Linear, SiLU, Linear, as released."""
    assert config.real_action_dim is not None
    dim = config.action_dim
    return nn.Sequential(nn.Linear(config.real_action_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
