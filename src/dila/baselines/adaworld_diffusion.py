"""AdaWorld's world model (Gao et al. 2025, arXiv 2503.18938): the next frame by diffusion, given a latent action.

The network is Stable Video Diffusion's from the diffusers library (extra ``diffusion``). Its input is the last few
frames, clean, and the next one, noised, each concatenated with the last frame; the latent action enters through
cross-attention, with a description of the last frame. Noise levels, preconditioning and sampler are EDM's (Karras et
al. 2022). The latent actions come from a trained, frozen model, in the paper AdaWorld's own.

e      B T H W D   frozen features (published: latents of an image autoencoder)
z      B K Dz      latent actions of the frozen model
sigma  B           standard deviation of the noise on a frame
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from dila.baselines.adaworld import AdaWorld, AdaWorldConfig
from dila.baselines.frame_model import Foretold
from dila.baselines.presets import BASELINES, TINY
from dila.errors import MissingExtra
from dila.nn.real_actions import action_encoder, encoded
from dila.protocols import LatentActionModel
from dila.shapes import Actions, Features, Float, Int, LatentActions, Tensor


@dataclass(frozen=True)
class AdaWorldDiffusionConfig:
    """Sizes and noise; the defaults are the published ones.

    Args:
        grid: rows and columns of the feature grid.
        feature_dim: D.
        lam: config of AdaWorld's latent action model; for another model, only its ``action_dim`` is used.
        context: maximum number of past frames, true or predicted, that the network sees.
        channels: channels at each resolution, multiples of 32.
        heads: attention heads at each resolution.
        blocks: residual blocks per resolution.
        picture_dim: dimension of the description of the last frame (published: CLIP's).
        noise: mean and standard deviation of log sigma in training.
        noise_limits: smallest and largest sigma in sampling.
        context_noise: largest sigma on context frames in training, for robustness to predicted ones.
        drop: share of training samples without description, action and last frame, for guidance.
        guidance: strength of classifier-free guidance; 1 is none, at half the cost.
        steps: sampler steps per frame.
        real_action_dim: Da of the action encoder, or None.
    """

    grid: tuple[int, int] = (32, 32)
    feature_dim: int = 4
    lam: AdaWorldConfig = field(default_factory=AdaWorldConfig)
    context: int = 6
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    heads: tuple[int, ...] = (5, 10, 20, 20)
    blocks: int = 2
    picture_dim: int = 1024
    noise: tuple[float, float] = (1.2, 1.6)
    noise_limits: tuple[float, float] = (0.002, 700.0)
    context_noise: float = 0.7
    drop: float = 0.1
    guidance: float = 1.25
    steps: int = 5
    real_action_dim: int | None = None

    @property
    def action_dim(self) -> int:
        """Dz, dimension of a latent action."""
        return self.lam.action_dim

    def for_features(self, grid: tuple[int, int], feature_dim: int) -> "AdaWorldDiffusionConfig":
        """Return the same config for an encoder with this grid and this many channels."""
        lam = self.lam.for_features(grid, feature_dim)
        return replace(self, grid=tuple(grid), feature_dim=feature_dim, lam=lam)


class DiffusionState(NamedTuple):
    """The last frames, preceded by zeros if there are too few; their number; and the seed of the next frame's noise."""

    frames: Float[Tensor, "B C H W D"]
    length: Int[Tensor, " B"]
    seed: Int[Tensor, " B"]


class AdaWorldDiffusion(nn.Module):
    """A `LatentActionModel` that infers with a frozen model and steps by sampling.

    Sampling is deterministic: the noise of each frame comes from a seed in the state, separately for each clip, so it
    depends neither on the batch nor on earlier samples, and candidate plans are compared under the same noise.

    Args:
        config: sizes.
        lam: the model whose latent actions are used; None creates an AdaWorld of ``config.lam``, untrained.

    Raises:
        MissingExtra: diffusers is not installed.
    """

    acts = True
    """The model has latent actions."""
    layers = ()
    """Empty: gradient checkpointing is enabled by ``network.enable_gradient_checkpointing()`` instead."""

    def __init__(self, config: AdaWorldDiffusionConfig, lam: LatentActionModel | None = None):
        super().__init__()
        self.config = config
        self.lam: Any = AdaWorld(config.lam) if lam is None else lam
        self.network = _network(config)
        self.describe = nn.Linear(config.feature_dim, config.picture_dim)
        self.action_encoder = action_encoder(width, config.action_dim) if (width := config.real_action_dim) else None
        if isinstance(self.lam, nn.Module):
            self.lam.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "AdaWorldDiffusion":
        """Set the mode of everything except the frozen model, which stays in evaluation mode."""
        super().train(mode)
        if isinstance(self.lam, nn.Module):
            self.lam.eval()
        return self

    def infer(self, e: Features) -> LatentActions:
        """Return the latent actions of the frozen model."""
        with torch.no_grad():
            return self.lam.infer(e)

    def encode_actions(self, a: Actions) -> LatentActions:
        """Return the z of real actions. Raises DilaError unless their width is the model's ``real_action_dim``."""
        return encoded(self.action_encoder, a)

    def forward(self, e: Features) -> Foretold:
        """Predict frames 1..K, each from the true ones before it: denoised from one level in training, else sampled.

        The penalty ``denoising`` is the error of the network's own output, which has the scale of the features at every
        noise level.
        """
        z = self.infer(e)
        frames, length = _windows(e[:, :-1], self.config.context)
        told, target = z.flatten(0, 1), e[:, 1:].flatten(0, 1)
        if self.training:
            denoised, loss = self._learn(frames, length, told, target)
            return Foretold(z, denoised.view_as(e[:, 1:]), {"denoising": loss}, None)
        noise = _noise(length.new_zeros(len(frames)), target)
        return Foretold(z, self._sample(frames, length, told, noise).view_as(e[:, 1:]), {}, None)

    def start(self, e: Features, seed: int = 0) -> DiffusionState:
        """Return the state after context frames; the last few are kept."""
        frames, length = _windows(e, self.config.context)
        batch = (len(e), -1)
        seeds = torch.full((len(e),), seed, dtype=torch.int64, device=e.device)
        return DiffusionState(frames.unflatten(0, batch)[:, -1], length.unflatten(0, batch)[:, -1], seeds)

    def step(self, state: DiffusionState, z: Float[Tensor, "B Dz"]) -> tuple[DiffusionState, Float[Tensor, "B H W D"]]:
        """Sample the next frame and append it to the state."""
        e_hat = self._sample(state.frames, state.length, z, _noise(state.seed, state.frames[:, 0]))
        frames = torch.cat([state.frames[:, 1:], e_hat.unsqueeze(1)], dim=1)
        return DiffusionState(frames, (state.length + 1).clamp(max=self.config.context), state.seed + 1), e_hat

    def _learn(self, frames: Tensor, length: Tensor, z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames denoised from a random noise level, and the mean squared error of the network's output."""
        mean, std = self.config.noise
        sigma = (mean + std * torch.randn(len(target), device=target.device)).exp()
        noisy = target + _wide(sigma) * torch.randn_like(target)
        doubt = self.config.context_noise * torch.rand(len(target), device=target.device)
        there = _present(frames.shape[1], length)
        doubtful = frames + (_wide(doubt).unsqueeze(1) * there * torch.randn_like(frames))
        shown = torch.rand(len(target), device=target.device) >= self.config.drop
        denoised = self._denoise(doubtful, length, doubt, z, noisy, sigma, shown)
        weight = 1 + 1 / _wide(sigma).square()
        return denoised, (weight * (denoised.float() - target.float()).square()).mean()

    def _sample(self, frames: Tensor, length: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """Sample by Euler steps along EDM's noise levels, down to zero."""
        scheduler, guidance = _scheduler(self.config), self.config.guidance
        scheduler.set_timesteps(self.config.steps)
        levels = scheduler.sigmas.tolist()
        still, all_shown = length.new_zeros(len(noise)).float(), length > 0
        x = noise * levels[0]
        for level, lower in pairwise(levels):
            sigma = torch.full_like(still, level)
            denoised = self._denoise(frames, length, still, z, x, sigma, all_shown)
            if guidance != 1:
                without = self._denoise(frames, length, still, z, x, sigma, ~all_shown)
                denoised = without + guidance * (denoised - without)
            x = denoised + (x - denoised) * (lower / level)
        return x

    def _denoise(
        self, frames: Tensor, length: Tensor, doubt: Tensor, z: Tensor, x: Tensor, sigma: Tensor, shown: Tensor
    ) -> Tensor:
        """Denoise the frames ``x``, with preconditioning for features of unit variance."""
        scheduler, sigma = _scheduler(self.config), sigma.float()
        last = frames[:, -1] * _wide(shown)
        video = torch.cat([frames, scheduler.precondition_inputs(x, _wide(sigma)).unsqueeze(1)], dim=1)
        beside = repeat(last, "b h w d -> b f h w d", f=video.shape[1])
        told = torch.cat([self.describe(last.mean((1, 2))), z], dim=-1) * shown.unsqueeze(-1)
        out = self.network(
            rearrange(torch.cat([video, beside], dim=-1), "b f h w d -> b f d h w"),
            scheduler.precondition_noise(sigma),
            told.unsqueeze(1),
            torch.stack([length.float(), doubt], dim=1),
        ).sample[:, -1]
        return scheduler.precondition_outputs(x, rearrange(out, "b d h w -> b h w d"), _wide(sigma))


def published() -> AdaWorldDiffusionConfig:
    """The published size: 1.5 billion parameters on 32 x 32 x 4 latents of frames of 256 pixels."""
    return AdaWorldDiffusionConfig()


def tiny() -> AdaWorldDiffusionConfig:
    """A size that trains on two CPU cores, on the 8 x 8 x 272 features of the embedded encoder."""
    lam = BASELINES["adaworld"][TINY]
    return AdaWorldDiffusionConfig(
        (8, 8), 272, lam, context=2, channels=(32, 64), heads=(1, 2), picture_dim=64, guidance=1.0
    )


def _network(config: AdaWorldDiffusionConfig) -> Any:
    try:
        from diffusers import UNetSpatioTemporalConditionModel
    except ImportError as error:
        raise MissingExtra("AdaWorld's diffusion model", "diffusers", "diffusion") from error
    crossing = len(config.channels) - 1
    return UNetSpatioTemporalConditionModel(
        in_channels=2 * config.feature_dim,
        out_channels=config.feature_dim,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * crossing + ("DownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * crossing,
        block_out_channels=config.channels,
        addition_time_embed_dim=_TIME,
        projection_class_embeddings_input_dim=2 * _TIME,
        layers_per_block=config.blocks,
        cross_attention_dim=config.picture_dim + config.action_dim,
        num_attention_heads=config.heads,
        num_frames=config.context + 1,
    )


_TIME = 256
"""Dimension of the sinusoidal embedding of each of two numbers: the number of context frames and their noise level."""


def _scheduler(config: AdaWorldDiffusionConfig) -> Any:
    from diffusers import EDMEulerScheduler

    least, largest = config.noise_limits
    return EDMEulerScheduler(sigma_min=least, sigma_max=largest, sigma_data=1.0, prediction_type="v_prediction")


def _windows(e: Features, count: int) -> tuple[Float[Tensor, "BT C H W D"], Int[Tensor, " BT"]]:
    """Return the last ``count`` frames at each frame of a clip, preceded by zeros, and how many are true frames."""
    padded = F.pad(e, (0, 0) * 3 + (count - 1, 0))
    windows = rearrange(padded.unfold(1, count, 1), "b t h w d c -> (b t) c h w d")
    lengths = torch.arange(1, e.shape[1] + 1, device=e.device).clamp(max=count)
    return windows, lengths.repeat(len(e))


def _present(count: int, length: Int[Tensor, " B"]) -> Float[Tensor, "B C 1 1 1"]:
    place = torch.arange(count, device=length.device)
    return (place >= count - length.unsqueeze(1)).float()[..., None, None, None]


def _noise(seed: Int[Tensor, " B"], like: Float[Tensor, "B H W D"]) -> Float[Tensor, "B H W D"]:
    """Standard normal noise, for each clip from its own seed, equal on every device."""
    draws = [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(one)) for one in seed.tolist()]
    return torch.stack(draws).to(like)


def _wide(x: Tensor) -> Tensor:
    return x[:, None, None, None]
