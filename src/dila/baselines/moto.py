"""Moto's latent motion tokeniser (Chen et al. 2024, arXiv 2412.04445).

Learned queries attend to two frames in a few transformer layers and are quantised. A decoder adds all codes, as one
vector, to every patch of the first frame and predicts the second. As published, the input is tokens of a frozen ViT-MAE
and the output patches of pixels; at the other sizes both are the run's features.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import nn

from dila.baselines.frame_model import FrameModel, Head, Predicts, pairs, tokens
from dila.errors import DilaError
from dila.nn.bottleneck import VQ, Bottlenecked
from dila.nn.vit import vit_layer
from dila.shapes import Features, Float, LatentActions, Tensor
from dila.vision.pixels import assemble, patch_of
from dila.vision.vit_mae import ViTMAE, ViTMAEConfig


@dataclass(frozen=True)
class MotoConfig:
    """Sizes; see `dila.baselines.presets`; the defaults fit patches of 16 pixels of frames of 224.

    Args:
        grid: rows and columns of the feature grid.
        feature_dim: D.
        width: channels of all layers.
        heads: attention heads.
        encoder_depth: layers over two frames.
        decoder_depth: layers within one frame.
        queries: codes per transition; z is their concatenation.
        codes: size of the codebook.
        code_dim: dimension of a code.
        beta: weight of the term that moves codes to their inputs; the commitment has weight 1, as in the released
            quantiser.
        lift: channels that each code is mapped to before concatenation; None leaves codes unchanged.
        reads: frozen ViT-MAE that encodes the input frames, a Hub id or a local folder; features are then patches of
            pixels of its patch size. None uses the features as input.
        reads_dim: channels of its tokens.
        predicts: see `dila.baselines.frame_model.Predicts`.
        real_action_dim: Da of the action encoder, or None.
    """

    grid: tuple[int, int] = (14, 14)
    feature_dim: int = 768
    width: int = 768
    heads: int = 12
    encoder_depth: int = 4
    decoder_depth: int = 12
    queries: int = 8
    codes: int = 128
    code_dim: int = 32
    beta: float = 0.25
    lift: int | None = None
    reads: str | None = None
    reads_dim: int = 1024
    predicts: Predicts = "features"
    real_action_dim: int | None = None

    @property
    def action_dim(self) -> int:
        """Dz: all codes of a transition."""
        return self.queries * self.code_dim

    def for_features(self, grid: tuple[int, int], feature_dim: int) -> "MotoConfig":
        """Return the same config for an encoder with this grid and this many channels.

        Raises:
            DilaError: `reads` is set, and the channels are not pixels, or the ViT-MAE is not available or does not fit;
                raised here so that a run fails before its data are encoded.
        """
        fitted = replace(self, grid=tuple(grid), feature_dim=feature_dim)
        if fitted.reads:
            _open_eyes(fitted, fitted.reads)
        return fitted


class Moto(FrameModel):
    """Two frames to eight codes, and a frame and codes to the next frame."""

    penalty = "commitment"
    config: MotoConfig

    def __init__(self, config: MotoConfig):
        super().__init__(config)
        dim, cells = config.width, config.grid[0] * config.grid[1]
        self.to_tokens = nn.Linear(config.reads_dim if config.reads else config.feature_dim, dim)
        self.queries = _learned(config.queries, dim)
        self.between = _learned(1, dim)
        self.positions = _learned(config.queries + 2 * cells + 1, dim)
        self.reading = nn.ModuleList(vit_layer(dim, config.heads) for _ in range(config.encoder_depth))
        self.reading_norm = nn.LayerNorm(dim)
        self.to_codes = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, config.code_dim))
        self.vq = VQ(config.codes, config.code_dim, commitment=1.0, codebook=config.beta)
        self.to_patches = nn.Linear(config.feature_dim, dim)
        self.cells = _learned(cells, dim)
        self.lift = _lift(config.code_dim, config.lift) if config.lift else nn.Identity()
        self.from_codes = nn.Linear(config.queries * (config.lift or config.code_dim), dim)
        self.drawing = nn.ModuleList(vit_layer(dim, config.heads) for _ in range(config.decoder_depth))
        self.drawing_norm = nn.LayerNorm(dim)
        self.head = Head(dim, config.feature_dim, config.predicts)
        self._eyes: ViTMAE | None = None  # not a module: frozen, and excluded from checkpoints

    @property
    def eyes(self) -> ViTMAE:
        """The frozen encoder of `MotoConfig.reads`, at the frame size that the features are patches of.

        Raises:
            MissingExtra: transformers is not installed.
            DilaError: it is not available, or its tokens differ from the config.
        """
        if self._eyes is None:
            assert self.config.reads is not None, "this model reads its features"
            self._eyes = _open_eyes(self.config, self.config.reads)
        return self._eyes

    def squeeze(self, e: Features) -> Bottlenecked:
        """Return the codes of the queries for every two frames."""
        first, second = self.to_tokens(tokens(pairs(self._read(e)))).unbind(1)
        asked = (part.expand(len(first), -1, -1) for part in (self.queries, self.between))
        queries, between = asked
        x = torch.cat([queries, first, between, second], dim=1) + self.positions
        for layer in self.reading:
            x = layer(x)
        out = self.vq(self.to_codes(self.reading_norm(x[:, : self.config.queries])))
        z = rearrange(out.z, "(b k) n d -> b k (n d)", b=len(e))
        return Bottlenecked(z, out.penalty, rearrange(out.codes, "(b k) n -> b k n", b=len(e)))

    def draw(self, e: Features, z: LatentActions) -> Features:
        """Predict the frame after each frame; the action is added to all of its patches."""
        lifted = self.lift(z.unflatten(-1, (self.config.queries, -1))).flatten(-2)
        x = self.to_patches(tokens(e)) + self.cells + self.from_codes(lifted).unsqueeze(2)
        for layer in self.drawing:
            x = layer(x)
        return self.head(self.drawing_norm(x).view(*e.shape[:-1], -1), e)

    def _read(self, e: Features) -> Float[Tensor, "B T H W C"]:
        """Return the encoder input for these frames, true or predicted."""
        if self.config.reads is None:
            return e
        return self.eyes.to(e.device).encode(assemble(e).float().clamp(0, 1))


def _open_eyes(config: MotoConfig, reads: str) -> ViTMAE:
    patch = patch_of(config.feature_dim)
    eyes = ViTMAE(ViTMAEConfig(reads, size=(config.grid[0] * patch, config.grid[1] * patch), precision="bf16"))
    if eyes.grid != config.grid:
        raise DilaError(
            f"{reads} has patches of {eyes.described.patch_size} pixels, but the features are patches of {patch}; "
            f"set --encoder.patch {eyes.described.patch_size}"
        )
    if eyes.feature_dim != config.reads_dim:
        raise DilaError(
            f"{reads} gives {eyes.feature_dim} channels, but the model reads {config.reads_dim}; "
            f"set --model.reads-dim {eyes.feature_dim}"
        )
    return eyes


def _lift(dim: int, wide: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, wide))


def _learned(count: int, dim: int) -> Float[Tensor, "N D"]:
    return nn.Parameter(0.02 * torch.randn(count, dim))
