"""DINOv2 with registers, the encoder of the paper, through transformers (extra ``dinov2``).

Used as in the representation autoencoder (RAE, Zheng et al. 2025): the final layer norm has no affine parameters, and
class and register tokens are dropped, so a frame of 224 pixels gives 16 x 16 tokens, of 768 channels with the base
model.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from dila.shapes import Float, Tensor
from dila.vision.pretrained_vit import PretrainedViT, PretrainedViTConfig
from dila.vision.statistics import FeatureStatistics


@dataclass(frozen=True)
class DINOv2Config(PretrainedViTConfig):
    """See `PretrainedViTConfig`.

    `reduce`: frames of more than 8/7 of `size` (256 pixels for 224) in rows or columns are first brought to that size
    with antialiasing, as the released training data were; False resizes all frames at once, which aliases large ones.
    """

    model: str = "facebook/dinov2-with-registers-base"
    reduce: bool = True


class DINOv2(PretrainedViT):
    """The patch tokens of the last layer, each normalised to zero mean and unit variance. Raises as `PretrainedViT`."""

    name: ClassVar[str] = "dinov2"
    title, extra, model_type = "DINOv2", "dinov2", "dinov2_with_registers"
    # The released statistics and decoder expect a resize without antialiasing and clamping.
    antialias = False

    def __init__(self, config: DINOv2Config = DINOv2Config(), statistics: FeatureStatistics | None = None):
        super().__init__(config, statistics)
        if config.reduce:
            rows, columns = self.resize.size
            self.resize = replace(self.resize, through=(rows * 8 // 7, columns * 8 // 7))
        self.extra_tokens = 1 + self.described.num_register_tokens

    def load(self) -> nn.Module:
        """Load the network, frozen."""
        from transformers import Dinov2WithRegistersModel

        network = self.fetched(Dinov2WithRegistersModel, dtype=torch.float32)
        width, eps = network.config.hidden_size, network.config.layer_norm_eps
        network.layernorm = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        return network.eval().requires_grad_(False)

    def patches(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P D"]:
        """See `PretrainedViT.patches`."""
        return self.network(frames).last_hidden_state[:, self.extra_tokens :]
