"""ViT-MAE (He et al. 2022), through transformers (extra ``mae``): what Moto's latent motion tokeniser reads.

Every patch is seen: nothing is masked, and patches keep their order. The class token is dropped, so a frame of 224
pixels gives 14 x 14 tokens, of 1,024 channels with the large model.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import nn

from dila.configs import to_json
from dila.errors import DilaError
from dila.shapes import Float, Tensor
from dila.vision.encoder import FrozenEncoder, Resize, rows_and_columns
from dila.vision.pretrained_vit import Source, cells
from dila.vision.statistics import FeatureStatistics

MODEL_TYPE = "vit_mae"


@dataclass(frozen=True)
class ViTMAEConfig:
    """`model` is a Hub id or a local folder; `local_files_only` forbids downloads. Frames are squeezed to `size`."""

    model: str = "facebook/vit-mae-large"
    revision: str | None = None
    size: int | tuple[int, int] = 224
    precision: Literal["bf16", "fp32"] = "fp32"
    local_files_only: bool = False


class ViTMAE(FrozenEncoder):
    """The frozen encoder half of a masked autoencoder.

    Raises:
        MissingExtra: transformers is not installed.
        DilaError: the model cannot be had, is of another kind, or `size` is no multiple of its patch.
    """

    name: ClassVar[str] = "vit-mae"

    def __init__(self, config: ViTMAEConfig = ViTMAEConfig(), statistics: FeatureStatistics | None = None):
        self.settings = config
        self.statistics = statistics
        self.resize = Resize(rows_and_columns(config.size), "bicubic", antialias=True)
        self.source = Source("ViT-MAE", "mae", MODEL_TYPE, config.model, config.revision, config.local_files_only)
        self.described = described = self.source.describe()
        self.made_by(partial(_load_network, self.source))
        self.grid = cells(self.resize.size, described.patch_size, config.model)
        self.feature_dim = described.hidden_size

    def features(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N H W D"]:
        """Raw features: the patch tokens of the last layer, after its norm."""
        bf16 = self.settings.precision == "bf16"
        # The model sorts its patches by this noise even where it keeps them all: rising, it leaves them in order.
        order = torch.arange(self.grid[0] * self.grid[1], device=frames.device).float().expand(len(frames), -1)
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=bf16):
            tokens = self.network(frames, noise=order, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        return rearrange(tokens, "n (h w) d -> n h w d", h=self.grid[0], w=self.grid[1])

    def weights(self) -> str:
        """See `Source.weights`."""
        return self.source.weights(self.described)

    def config(self) -> dict[str, Any]:
        """See `FrozenEncoder.config`."""
        return {"name": self.name} | to_json(self.settings)


def _load_network(source: Source) -> nn.Module:
    from transformers import ViTMAEForPreTraining

    # The whole autoencoder, as it is published: its encoder alone would be loaded with a page of warnings.
    load: Any = ViTMAEForPreTraining.from_pretrained
    options = source.options() | {"dtype": torch.float32, "mask_ratio": 0.0, "output_loading_info": True}
    with source.to_be_had():
        whole, told = load(source.model, **options)
    if lacking := sorted(name for name in told["missing_keys"] if name.startswith("vit.")):
        raise DilaError(f"{source.model} lacks {len(lacking)} weight(s) of a ViT-MAE, first {lacking[0]}; get it anew")
    return whole.vit.eval().requires_grad_(False)
