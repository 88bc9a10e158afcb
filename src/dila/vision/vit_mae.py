"""ViT-MAE (He et al. 2022), through transformers (extra ``mae``): the input of Moto's latent motion tokeniser.

Nothing is masked, and patches keep their order. The class token is dropped, so a frame of 224 pixels gives 14 x 14
tokens, of 1,024 channels with the large model.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from dila.errors import DilaError
from dila.shapes import Float, Tensor
from dila.vision.pretrained_vit import PretrainedViT, PretrainedViTConfig
from dila.vision.statistics import FeatureStatistics


@dataclass(frozen=True)
class ViTMAEConfig(PretrainedViTConfig):
    """See `PretrainedViTConfig`."""

    model: str = "facebook/vit-mae-large"


class ViTMAE(PretrainedViT):
    """The encoder of a masked autoencoder, after its norm. Raises as `PretrainedViT`."""

    name: ClassVar[str] = "vit-mae"
    title, extra, model_type = "ViT-MAE", "mae", "vit_mae"
    antialias = True

    def __init__(self, config: ViTMAEConfig = ViTMAEConfig(), statistics: FeatureStatistics | None = None):
        super().__init__(config, statistics)

    def load(self) -> nn.Module:
        """Load the network, frozen.

        Raises:
            DilaError: weights are missing.
        """
        from transformers import ViTMAEForPreTraining

        # Load the whole published autoencoder: loading only its encoder prints a page of warnings.
        options = {"dtype": torch.float32, "mask_ratio": 0.0, "output_loading_info": True}
        whole, told = self.fetched(ViTMAEForPreTraining, **options)
        if lacking := sorted(name for name in told["missing_keys"] if name.startswith("vit.")):
            raise DilaError(
                f"{self.settings.model} lacks {len(lacking)} weight(s) of a ViT-MAE, the first {lacking[0]}; download "
                "it again"
            )
        return whole.vit.eval().requires_grad_(False)

    def patches(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P D"]:
        """See `PretrainedViT.patches`."""
        # The model sorts patches by this noise even if none is masked; increasing noise keeps their order.
        order = torch.arange(self.grid[0] * self.grid[1], device=frames.device).float().expand(len(frames), -1)
        return self.network(frames, noise=order, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
