"""Real actions on their way to z, whichever model it is of: the action encoder, whose first layer knows their units."""

from typing import Any

import torch
from torch import nn

from dila.errors import DilaError
from dila.shapes import Bool, Float, Tensor


def action_encoder(width: int, action_dim: int) -> nn.Sequential:
    """Real actions ``B K Da`` of ``width`` numbers to z, ``B K Dz``: Linear, SiLU, Linear, as released (stage 3)."""
    return nn.Sequential(nn.Linear(width, action_dim), nn.SiLU(), nn.Linear(action_dim, action_dim))


def encoded(encoder: nn.Sequential | None, a: Float[Tensor, "B K _"]) -> Float[Tensor, "B K Dz"]:
    """Real actions through the action encoder, whose first layer is linear.

    Raises:
        DilaError: there is no encoder, or actions are of another width than it takes.
    """
    if encoder is None:
        raise DilaError("this model knows latent actions alone; give it real ones with: dila adapt MODEL DATA")
    width = encoder[0].in_features
    if a.shape[-1] != width:
        raise DilaError(
            f"actions are of {a.shape[-1]} numbers, but the model's of {width}; give all raw actions of a transition "
            "side by side, as ActionSpace.hold does"
        )
    return encoder(a)


def mean_and_std(a: Float[Tensor, "N Da"]) -> tuple[Float[Tensor, " Da"], Float[Tensor, " Da"]]:
    """What actions are standardised by; the deviation of a component that never changes counts as 1.

    In double precision, so that such a component becomes 0 to the bit.
    """
    rows = a.double()
    mean, std = rows.mean(0).float(), rows.std(0, correction=min(1, len(rows) - 1)).float()
    return mean, torch.where(varying(a), std, torch.ones_like(std))


def varying(a: Float[Tensor, "N D"]) -> Bool[Tensor, " D"]:
    """Which components change by more than float32 rounds, and by more than a millionth of one or of the others."""
    rows = a.detach().cpu().double()
    std, rounding = rows.std(0, correction=0), torch.finfo(torch.float32).eps * rows.abs().amax(0)
    return (std > torch.maximum(rounding, 1e-6 * std.amax().clamp_max(1))).to(a.device)


@torch.no_grad()
def read_raw(encoder: nn.Sequential, mean: Float[Tensor, " Da"], std: Float[Tensor, " Da"]) -> None:
    """Let an encoder that read (a - mean) / std read a, and give the same z."""
    first: Any = encoder[0]
    first.weight.div_(std)
    first.bias.sub_(first.weight @ mean)


@torch.no_grad()
def read_standardised(encoder: nn.Sequential, mean: Float[Tensor, " Da"], std: Float[Tensor, " Da"]) -> None:
    """The inverse of `read_raw`."""
    first: Any = encoder[0]
    first.bias.add_(first.weight @ mean)
    first.weight.mul_(std)
