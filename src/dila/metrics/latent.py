"""Is the latent action space alive? Numbers that fall when z collapses, for training logs and results."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from dila.shapes import Float, LatentActions, Tensor

IN_USE = 0.1
"""A channel is in use if its spread is at least this share of the widest channel's."""


class LatentSummary(NamedTuple):
    """All of this file in plain numbers, JSON-ready by ``_asdict``."""

    effective_rank: float
    mean_std: float
    usage: float
    norm: float


def effective_rank(z: Float[Tensor, "*batch Dz"]) -> Float[Tensor, ""]:
    """exp of the entropy of the normalised singular values of centred z (Roy and Vetterli 2007): 1 to Dz.

    It is 0 for actions that are all the same, NaN where one is not finite.
    """
    flat = _flat(z)
    if not flat.isfinite().all():
        return flat.new_tensor(float("nan"))
    singular = torch.linalg.svdvals(flat - flat.mean(0))
    total = singular.sum()
    if total <= 1e-12 * max(1.0, float(flat.abs().max())):
        return total.new_zeros(())
    share = singular / total
    return torch.special.entr(share).sum().exp()


def scale(x: Float[Tensor, "*batch C"]) -> Float[Tensor, ""]:
    """Standard deviation over everything but the channels, averaged over them; 0 where nothing varies."""
    return x.detach().float().flatten(0, -2).std(dim=0, correction=0).mean()


def channel_std(z: Float[Tensor, "*batch Dz"]) -> Float[Tensor, " Dz"]:
    """Standard deviation of each number of z over everything before the last axis; 0 for a single action."""
    return _flat(z).std(0, correction=0)


def usage(z: Float[Tensor, "*batch Dz"], threshold: float = IN_USE) -> Float[Tensor, ""]:
    """Share of the channels of z in use: spread of at least ``threshold`` of the widest. 0 if none moves."""
    spread = channel_std(z)
    return ((spread >= threshold * spread.max()) & (spread > 0)).double().mean()


def direction_cosine(z_forward: LatentActions, z_backward: LatentActions) -> Float[Tensor, ""]:
    """Mean cosine of the actions there and back: -1 where the way back is the way there, reversed (paper, Lreg)."""
    return F.cosine_similarity(z_forward.detach().cpu().double(), z_backward.detach().cpu().double(), dim=-1).mean()


def summarise(z: Float[Tensor, "*batch Dz"]) -> LatentSummary:
    """Rank, mean spread of a channel, usage and mean norm of a set of latent actions."""
    return LatentSummary(
        float(effective_rank(z)), float(scale(z)), float(usage(z)), float(_flat(z).norm(dim=-1).mean())
    )


def _flat(z: Float[Tensor, "*batch Dz"]) -> Float[Tensor, "N Dz"]:
    return z.detach().reshape(-1, z.shape[-1]).cpu().double()
