"""Structure, h -> s: the layout that latent actions have to explain (paper section 3, symbol s).

h  B T H W D
s  B T H W Ds   narrow (Ds = 32), neither normalised nor squashed
"""

from dila.model.config import DiLAConfig
from dila.nn.feedforward import ResMLP


def structure_head(config: DiLAConfig) -> ResMLP:
    """Return the module that maps h to s at each token."""
    return ResMLP(config.dim, config.hidden, config.structure_dim)
