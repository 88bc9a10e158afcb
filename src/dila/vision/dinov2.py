"""DINOv2 with registers, the encoder of the paper, through transformers (extra ``dinov2``).

As the representation autoencoder (RAE, Zheng et al. 2025) uses it: the final layer norm without its affine, the
class and register tokens dropped, so a frame of 224 pixels gives 16 x 16 tokens of 768 channels with the base model.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import nn

from dila.configs import to_json
from dila.shapes import Float, Tensor
from dila.vision.encoder import FrozenEncoder, Resize, rows_and_columns
from dila.vision.pretrained_vit import Source, cells
from dila.vision.statistics import FeatureStatistics

MODEL_TYPE = "dinov2_with_registers"


@dataclass(frozen=True)
class DINOv2Config:
    """`model` is a Hub id or a local folder; `local_files_only` forbids downloads. Frames are squeezed to `size`."""

    model: str = "facebook/dinov2-with-registers-base"
    revision: str | None = None
    size: int | tuple[int, int] = 224
    precision: Literal["bf16", "fp32"] = "fp32"
    local_files_only: bool = False


class DINOv2(FrozenEncoder):
    """The frozen vision transformer.

    Raises:
        MissingExtra: transformers is not installed.
        DilaError: the model cannot be had, is of another kind, or `size` is no multiple of its patch.
    """

    name: ClassVar[str] = "dinov2"

    def __init__(
        self,
        config: DINOv2Config = DINOv2Config(),
        statistics: FeatureStatistics | None = None,
    ):
        self.settings = config
        self.statistics = statistics
        # Bicubic without antialias and without a clamp, as the released statistics and decoder expect.
        self.resize = Resize(rows_and_columns(config.size), "bicubic", antialias=False)
        self.source = Source("DINOv2", "dinov2", MODEL_TYPE, config.model, config.revision, config.local_files_only)
        self.described = described = self.source.describe()
        self.made_by(partial(_load_network, self.source))
        self.grid = cells(self.resize.size, described.patch_size, config.model)
        self.feature_dim = described.hidden_size
        self.extra_tokens = 1 + described.num_register_tokens

    def features(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N H W D"]:
        """Raw features: the patch tokens of the last layer, each of zero mean and unit variance."""
        bf16 = self.settings.precision == "bf16"
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=bf16):
            tokens = self.network(frames).last_hidden_state[:, self.extra_tokens :]
        return rearrange(tokens, "n (h w) d -> n h w d", h=self.grid[0], w=self.grid[1])

    def weights(self) -> str:
        """See `Source.weights`."""
        return self.source.weights(self.described)

    def config(self) -> dict[str, Any]:
        """See `FrozenEncoder.config`."""
        return {"name": self.name} | to_json(self.settings)


def _load_network(source: Source) -> nn.Module:
    from transformers import Dinov2WithRegistersModel

    with source.to_be_had():
        network = Dinov2WithRegistersModel.from_pretrained(source.model, dtype=torch.float32, **source.options())
    width, eps = network.config.hidden_size, network.config.layer_norm_eps
    network.layernorm = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
    return network.eval().requires_grad_(False)
