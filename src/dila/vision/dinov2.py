"""DINOv2 with registers, the encoder of the paper, through transformers (extra ``dinov2``).

As the representation autoencoder (RAE, Zheng et al. 2025) uses it: the final layer norm without its affine, the
class and register tokens dropped, so a frame of 224 pixels gives 16 x 16 tokens of 768 channels with the base model.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import nn

from dila.configs import to_json
from dila.errors import DilaError, MissingExtra
from dila.shapes import Float, Tensor
from dila.vision.encoder import FrozenEncoder, Resize, rows_and_columns
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
        described = _described(config)
        self.described = described
        self.made_by(partial(_load_network, config))
        patch = described.patch_size
        if any(side < patch or side % patch for side in self.resize.size):
            raise DilaError(f"the encoder's size should be a multiple of {patch}, the patch of {config.model}")
        self.grid = (self.resize.size[0] // patch, self.resize.size[1] // patch)
        self.feature_dim = described.hidden_size
        self.extra_tokens = 1 + described.num_register_tokens

    def features(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N H W D"]:
        """Raw features: the patch tokens of the last layer, each of zero mean and unit variance."""
        bf16 = self.settings.precision == "bf16"
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=bf16):
            tokens = self.network(frames).last_hidden_state[:, self.extra_tokens :]
        return rearrange(tokens, "n (h w) d -> n h w d", h=self.grid[0], w=self.grid[1])

    def weights(self) -> str:
        """The commit of a Hub model, or a hash of the sizes and times of a local one's weight files."""
        folder = Path(self.settings.model)
        if not folder.is_dir():
            return str(getattr(self.described, "_commit_hash", None) or "")
        files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
        told = "\n".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def config(self) -> dict[str, Any]:
        """See `FrozenEncoder.config`."""
        return {"name": self.name} | to_json(self.settings)


def _described(config: DINOv2Config) -> Any:
    """What the model says of itself, without its weights."""
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise MissingExtra("the DINOv2 encoder", "transformers", "dinov2") from error
    with _to_be_had(config):
        described = AutoConfig.from_pretrained(config.model, **_source(config))
    if described.model_type != MODEL_TYPE:
        raise DilaError(
            f"{config.model} is a {described.model_type} model; the dinov2 encoder needs a {MODEL_TYPE} one"
        )
    return described


def _load_network(config: DINOv2Config) -> nn.Module:
    from transformers import Dinov2WithRegistersModel

    with _to_be_had(config):
        network = Dinov2WithRegistersModel.from_pretrained(config.model, dtype=torch.float32, **_source(config))
    width, eps = network.config.hidden_size, network.config.layer_norm_eps
    network.layernorm = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
    return network.eval().requires_grad_(False)


def _source(config: DINOv2Config) -> dict[str, Any]:
    return {"revision": config.revision, "local_files_only": config.local_files_only}


@contextmanager
def _to_be_had(config: DINOv2Config) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        where = "on this disk" if config.local_files_only else "on this disk or the Hub"
        raise DilaError(
            f"the encoder's model {config.model} is not to be had {where}; give a folder or check the id ({error})"
        ) from error
