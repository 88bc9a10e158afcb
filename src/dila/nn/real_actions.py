"""The action encoder, which maps real actions to z for every model; its first layer includes their normalisation."""

from typing import Any

import torch
from torch import nn

from dila.errors import DilaError
from dila.shapes import Bool, Float, Tensor


def action_encoder(width: int, action_dim: int) -> nn.Sequential:
    """Return the encoder of real actions ``B K Da``, Da = ``width``, to z: Linear, SiLU, Linear, as in stage 3."""
    return nn.Sequential(nn.Linear(width, action_dim), nn.SiLU(), nn.Linear(action_dim, action_dim))


def encoded(encoder: nn.Sequential | None, a: Float[Tensor, "B K _"]) -> Float[Tensor, "B K Dz"]:
    """Encode real actions to z.

    Raises:
        DilaError: there is no encoder, or the actions have another width than its input.
    """
    if encoder is None:
        raise DilaError("this model has no encoder of real actions; adapt it with: dila adapt MODEL DATA")
    width = encoder[0].in_features
    if a.shape[-1] != width:
        raise DilaError(
            f"actions have {a.shape[-1]} numbers, but the model's have {width}; concatenate all raw actions of a "
            "transition, as ActionSpace.hold does"
        )
    return encoder(a)


def mean_and_std(a: Float[Tensor, "N Da"]) -> tuple[Float[Tensor, " Da"], Float[Tensor, " Da"]]:
    """Return the statistics for standardising actions; a component that never changes gets a deviation of 1.

    Computed in double precision, so that such a component standardises to exactly 0.
    """
    rows = a.double()
    mean, std = rows.mean(0).float(), rows.std(0, correction=min(1, len(rows) - 1)).float()
    return mean, torch.where(varying(a), std, torch.ones_like(std))


def varying(a: Float[Tensor, "N D"]) -> Bool[Tensor, " D"]:
    """Mark components that vary by more than float32 rounding and by more than 1e-6 of min(1, largest deviation)."""
    rows = a.detach().cpu().double()
    std, rounding = rows.std(0, correction=0), torch.finfo(torch.float32).eps * rows.abs().amax(0)
    return (std > torch.maximum(rounding, 1e-6 * std.amax().clamp_max(1))).to(a.device)


@torch.no_grad()
def read_raw(encoder: nn.Sequential, mean: Float[Tensor, " Da"], std: Float[Tensor, " Da"]) -> None:
    """Make an encoder of (a - mean) / std take a instead, with the same z."""
    first: Any = encoder[0]
    first.weight.div_(std)
    first.bias.sub_(first.weight @ mean)


@torch.no_grad()
def read_standardised(encoder: nn.Sequential, mean: Float[Tensor, " Da"], std: Float[Tensor, " Da"]) -> None:
    """Inverse of `read_raw`."""
    first: Any = encoder[0]
    first.bias.add_(first.weight @ mean)
    first.weight.mul_(std)
